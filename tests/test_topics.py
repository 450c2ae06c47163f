"""Topics: nearest label text, neighbours and probe against scikit-learn; what is chosen on dev; bad files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dec2vec.errors import UserError
from eval.config import TopicsConfig
from eval.metrics.correlation import cosine_pairs
from eval.tasks.labelled import LabelledTexts, read_labelled
from eval.tasks.task import Figure, Task, TaskVectors, Texts
from eval.tasks.topic_classifiers import LogisticProbe, NearestNeighbours, label_cosines
from eval.tasks.topic_files import label_texts, load_topics
from eval.tasks.topics import TrainedTask, ZeroShotTask, split
from tests.helpers import write_jsonl

CLASSES = ("news", "sport", "food_drink")
WIDTH = 8
RESAMPLES = 5


def rows(split: str, count: int) -> list[dict[str, object]]:
    """Every class equally often, but for two more of the first."""
    return [{"text": f"{split} {n}", "label": CLASSES[n % 3 if n > 1 else 0]} for n in range(count)]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    sizes = {"train": 45, "dev": 30, "test": 40}
    return {name: str(write_jsonl(tmp_path / f"{name}.jsonl", rows(name, size))) for name, size in sizes.items()}


def vector(text: str) -> np.ndarray:
    """A noisy one of its class for a text, the class's own for a label text."""
    name, _, number = text.partition(" ")
    code = CLASSES.index(text.replace(" ", "_")) if text.replace(" ", "_") in CLASSES else None
    if code is None and number.isdigit():
        row = int(number)
        noise = np.random.default_rng((len(name), row)).standard_normal(WIDTH)
        return 2.0 * np.eye(WIDTH)[row % 3 if row > 1 else 0] + noise
    return np.eye(WIDTH)[code] if code is not None else np.ones(WIDTH)


def embed(texts: Texts | None) -> TaskVectors:
    assert texts is not None and not texts.documents
    assert len(set(texts.queries)) == len(texts.queries)
    return TaskVectors(np.array([vector(text) for text in texts.queries], dtype=np.float32), np.zeros((0, WIDTH), "f4"))


def config(files: dict[str, str], method: str = "knn", **more: Any) -> TopicsConfig:
    return TopicsConfig(**{**files, "method": method, **more})


def measured(task: ZeroShotTask | TrainedTask) -> dict[str, Figure]:
    assert isinstance(task, Task)
    found = task.measure(None if task.dev is None else embed(task.dev), embed(task.test), RESAMPLES, 1)
    assert found[0].metric == task.metric
    return {figure.metric: figure for figure in found}


def matrix(split: LabelledTexts) -> tuple[np.ndarray, np.ndarray]:
    """In float64, the precision of the probe, with the values of the float32 vectors."""
    vectors = np.array([vector(text) for text in split.texts], dtype=np.float32)
    return vectors.astype(np.float64), np.array(split.labels)


def test_label_cosines() -> None:
    generator = np.random.default_rng(0)
    texts, labels = (generator.standard_normal((n, 5)).astype(np.float32) for n in (6, 3))
    texts[2] = 0
    found = label_cosines(texts, labels)
    for column, label in enumerate(labels):
        np.testing.assert_allclose(found[:, column], cosine_pairs(texts, np.tile(label, (6, 1))), atol=1e-12)
    texts[1, 1] = np.inf
    assert np.isnan(label_cosines(texts, labels)[1]).any() and np.isfinite(label_cosines(texts, labels)[0]).all()


def test_zero_shot_figures_against_scikit_learn(files: dict[str, str]) -> None:
    task = load_topics(TopicsConfig(test=files["test"]))
    assert isinstance(task, ZeroShotTask) and task.dev is None
    assert (task.name, task.label_texts) == ("test/word", ["food drink", "news", "sport"])
    x, gold = matrix(task.data.test)
    label_vectors = np.array([vector(text) for text in task.label_texts])
    cosines = x @ label_vectors.T / np.linalg.norm(x, axis=1, keepdims=True)
    predicted = np.array(task.data.classes)[cosines.argmax(axis=1)]
    found = measured(task)
    assert found.keys() == {"accuracy", "macro_f1", "chance", "majority"}
    for index in range(-1, RESAMPLES):
        part = np.arange(40) if index < 0 else np.random.default_rng((task.seed_of(1), 40, index)).integers(0, 40, 40)
        value = {name: figure.value if index < 0 else figure.resampled[index] for name, figure in found.items()}
        assert value["accuracy"] == pytest.approx(sk.accuracy_score(gold[part], predicted[part]))
        assert value["macro_f1"] == pytest.approx(sk.f1_score(gold[part], predicted[part], average="macro"))
        assert value["majority"] == pytest.approx(np.mean(gold[part] == "news"))
        assert value["chance"] == pytest.approx(1 / 3)
    assert found["accuracy"].value > 0.6 and found["accuracy"].n == 40


def test_calibration_subtracts_the_mean_over_dev_texts(files: dict[str, str]) -> None:
    plain = load_topics(TopicsConfig(test=files["test"], dev=files["dev"]))
    calibrated = load_topics(TopicsConfig(test=files["test"], dev=files["dev"], calibrated=True))
    assert isinstance(plain, ZeroShotTask) and isinstance(calibrated, ZeroShotTask)
    dev, test = embed(plain.dev), embed(plain.test)
    assert plain.data.dev is not None
    dev_cosines = label_cosines(
        matrix(plain.data.dev)[0].astype(np.float32),
        np.array([vector(text) for text in plain.label_texts], dtype=np.float32),
    )
    shift = plain.evidence(dev, test).scores - calibrated.evidence(dev, test).scores
    np.testing.assert_allclose(shift, np.tile(dev_cosines.mean(axis=0), (40, 1)), atol=1e-6)
    assert calibrated.name == "test/word-calibrated"
    shuffled = replace(plain.data.dev, labels=plain.data.dev.labels[::-1])
    other = replace(calibrated, data=replace(calibrated.data, dev=shuffled))
    np.testing.assert_array_equal(calibrated.evidence(dev, test).scores, other.evidence(dev, test).scores)
    assert calibrated.dev_score(dev) != other.dev_score(dev)


@pytest.mark.parametrize("method", ["knn", "probe"])
def test_trained_classifiers_against_scikit_learn(files: dict[str, str], method: str) -> None:
    task = load_topics(config(files, method, neighbours=(1, 4, 9), strengths=(0.01, 1.0)))
    assert isinstance(task, TrainedTask) and task.data.train is not None and task.data.dev is not None
    (train, codes), (dev, dev_gold), (test, gold) = map(matrix, (task.data.train, task.data.dev, task.data.test))
    models: dict[int | float, Any] = (
        {k: KNeighborsClassifier(k, metric="cosine", weights=lambda d: 1 - 1e-6 * d) for k in (1, 4, 9)}
        if method == "knn"
        else {c: make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)) for c in (0.01, 1.0)}
    )
    scores = {setting: model.fit(train, codes).score(dev, dev_gold) for setting, model in models.items()}
    chosen = max(scores, key=lambda setting: scores[setting])
    vectors = embed(task.dev)
    assert task.choose(vectors) == chosen
    assert task.dev_score(vectors) == pytest.approx(scores[chosen])
    evidence = task.evidence(vectors, embed(task.test))
    np.testing.assert_allclose(evidence.scores, models[chosen].predict_proba(test), atol=1e-4)
    assert evidence.setting == {"k" if method == "knn" else "C": chosen}
    assert measured(task)["accuracy"].value == pytest.approx(models[chosen].score(test, gold))


@pytest.mark.parametrize("method", ["knn", "probe"])
def test_test_labels_reach_no_choice(files: dict[str, str], method: str) -> None:
    task = load_topics(config(files, method, strengths=(0.01, 1.0)))
    assert isinstance(task, TrainedTask)
    labels = np.random.default_rng(0).permutation(task.data.test.labels).tolist()
    other = replace(task, data=replace(task.data, test=replace(task.data.test, labels=labels)))
    vectors = embed(task.dev)
    assert task.choose(vectors) == other.choose(vectors)
    assert task.dev_score(vectors) == other.dev_score(vectors)
    one, two = (each.evidence(vectors, embed(task.test)) for each in (task, other))
    np.testing.assert_array_equal(one.scores, two.scores)
    assert measured(task)["accuracy"].value != measured(other)["accuracy"].value


def test_without_dev_every_fifth_train_text_of_a_class_chooses(files: dict[str, str]) -> None:
    task = load_topics(TopicsConfig(train=files["train"], test=files["test"], method="knn"))
    assert isinstance(task, TrainedTask) and task.data.train is not None
    learn, judge = split(task.data.train, 0)
    assert (len(learn), len(judge)) == (36, 9)
    assert sorted(learn.texts + judge.texts) == sorted(task.data.train.texts)
    assert {judge.labels.count(name) for name in CLASSES} == {3}
    assert split(task.data.train, 0)[1].texts == judge.texts != split(task.data.train, 1)[1].texts
    assert task.evidence(embed(task.dev), embed(task.test)).setting["k"] <= 36
    with pytest.raises(UserError, match="3 texts are too few for the selection"):
        split(LabelledTexts("x", ["a", "b", "c"], ["1", "2", "1"]), 0)


def test_a_tie_of_votes_goes_to_the_nearer_class_and_not_to_the_first_name() -> None:
    """Scikit-learn's issue 21006: with equal weights another order of the class names gives other answers."""
    train = np.array([[1, 0.1], [1, 0.2], [1, -0.4], [1, -0.5], [0, 1]], dtype=np.float32)
    asked = np.array([[1, 0.0]], dtype=np.float32)
    for codes in ([1, 1, 0, 0, 2], [0, 0, 1, 1, 2], [2, 2, 0, 0, 1]):
        [found] = NearestNeighbours((4,)).scores(train, np.array(codes), asked, 3, [4])
        assert found.argmax() == codes[0]
        np.testing.assert_allclose(np.sort(found[0]), [0, 0.5, 0.5], atol=1e-5)
    [found] = NearestNeighbours((5,)).scores(train, np.array([1, 1, 0, 0, 0]), asked, 2, [5])
    assert found.argmax() == 0  # three votes stay more than two near ones


def test_more_neighbours_than_texts() -> None:
    assert NearestNeighbours((1, 5, 50)).settings(20) == [1, 5]
    assert NearestNeighbours((50,)).settings(20) == [20]


def test_vectors_with_nan_give_nan(files: dict[str, str]) -> None:
    for classifier in (NearestNeighbours(), LogisticProbe()):
        task = load_topics(config(files))
        assert isinstance(task, TrainedTask)
        task = replace(task, classifier=classifier)
        dev = embed(task.dev)
        dev.queries[0, 0] = np.inf
        assert np.isnan(task.dev_score(dev))
        found = {figure.metric: figure.value for figure in task.measure(dev, embed(task.test), 2, 0)}
        assert np.isnan(found["accuracy"]) and np.isnan(found["macro_f1"]) and found["chance"] == pytest.approx(1 / 3)


def test_confusion_and_margins_of_the_wrong_ones(files: dict[str, str]) -> None:
    task = load_topics(TopicsConfig(test=files["test"]))
    evidence = task.evidence(None, embed(task.test))
    wrong = evidence.wrong()
    assert evidence.confusion.sum() - np.trace(evidence.confusion) == len(wrong) > 0
    assert [item.lead for item in wrong] == sorted((item.lead for item in wrong), reverse=True)
    for item in wrong:
        scores = dict(zip(evidence.classes, evidence.scores[evidence.texts.index(item.text)], strict=True))
        best, second = sorted(scores.values(), reverse=True)[:2]
        assert scores[item.predicted] == best and item.lead == pytest.approx(best - second)
        assert item.deficit == pytest.approx(scores[item.gold] - best) and item.deficit < 0


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_label_texts(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels.{suffix}"
    entries = {"a_b": {"definition": "About a", "examples": ["x", "y"]}, "c": {"definition": "C", "examples": ["z"]}}
    path.write_text(json.dumps(entries), encoding="utf-8")
    assert label_texts(["c", "a_b"], "word") == ["c", "a b"]
    assert label_texts(["c", "a_b"], "definition", path) == ["C", "About a"]
    assert label_texts(["c", "a_b"], "examples", path) == ["C: z", "About a: x; y"]


@pytest.mark.parametrize(
    ("entries", "form", "message"),
    [
        ({"a": "A"}, "definition", "no entry for the class 'b' (1 are missing)"),
        ({"a": "A", "b": 3}, "definition", "'b' must be a text, or a definition and examples"),
        ({"a": "A", "b": {"text": "B"}}, "definition", "'b' must be a text, or a definition and examples"),
        ({"a": "A", "b": {"definition": " "}}, "definition", "'b' has no definition"),
        ({"a": "A", "b": "A"}, "definition", "'a' and 'b' have the same text 'A'"),
        ({"a": "A", "b": "B"}, "examples", "'a' has no examples"),
        ({"a": "A", "b": {"definition": "B", "examples": "x"}}, "examples", "the examples of 'b' must be a list"),
    ],
)
def test_bad_label_files(tmp_path: Path, entries: dict[str, object], form: Any, message: str) -> None:
    path = tmp_path / "labels.json"
    if form == "examples" and entries["b"] != "B":
        entries["a"] = {"definition": "A", "examples": ["x"]}
    path.write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(UserError) as error:
        label_texts(["a", "b"], form, path)
    assert message in str(error.value)


def test_classes_and_columns(tmp_path: Path) -> None:
    table: list[dict[str, object]] = [{"t": f"x{n}", "label": n % 3, "label_des": f"名{n % 3}"} for n in range(9)]
    path = write_jsonl(tmp_path / "f.jsonl", table)
    assert read_labelled(path, "t", "label").labels[:3] == ["0", "1", "2"]
    kept = read_labelled(path, "t", "label_des", classes=("名2", "名0"))
    assert (kept.texts[:2], kept.labels[:2], len(kept)) == (["x0", "x2"], ["名0", "名2"], 6)
    task = load_topics(TopicsConfig(test=str(path), text="t", label="label_des", classes=("名2", "名0")))
    assert task.data.classes == ["名2", "名0"]
    with pytest.raises(UserError, match="no row has label_des '名9'; the classes are: 名0, 名1, 名2"):
        read_labelled(path, "t", "label_des", classes=("名9",))


def test_bad_options(files: dict[str, str], tmp_path: Path) -> None:
    alone = str(write_jsonl(tmp_path / "alone.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "x"}]))
    labels = tmp_path / "labels.json"
    labels.write_text(
        json.dumps({name: {"definition": name, "examples": [f"test {n}"]} for n, name in enumerate(CLASSES)})
    )
    test = {"test": files["test"]}
    cases = {
        "there is only the class 'x'; classification needs at least two": TopicsConfig(test=alone),
        "alone: every label is 'x'; training needs two": TopicsConfig(**test, train=alone, method="knn"),
        "test contains the texts of test": TopicsConfig(**test, dev=files["test"]),
        "has no training texts; give a train file": TopicsConfig(**test, method="probe"),
        "calibration needs dev texts": TopicsConfig(**test, calibrated=True),
        "form definition needs a file": TopicsConfig(**test, form="definition"),
        "the example 'test 0' is a test text": TopicsConfig(**test, form="examples", labels=str(labels)),
        "no column 'body'; the columns are: text, label": TopicsConfig(**test, text="body"),
    }
    for message, wrong in cases.items():
        with pytest.raises(UserError, match=message):
            load_topics(wrong)
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"text": "a", "label": None}])
    with pytest.raises(UserError, match=r"bad.jsonl line 1: label is null"):
        read_labelled(bad, "text", "label")


@pytest.mark.parametrize(
    ("options", "unread"),
    [
        ({"labels": "labels.yaml"}, "labels is not used by method zero_shot with form word"),
        ({"method": "knn", "form": "definition"}, "form is not used by method knn"),
        ({"method": "knn", "calibrated": True}, "calibrated is not used by method knn"),
    ],
)
def test_options_that_nothing_reads_are_refused(options: dict[str, Any], unread: str) -> None:
    with pytest.raises(UserError, match=unread):
        load_topics(TopicsConfig(test="gone.jsonl", **options))
