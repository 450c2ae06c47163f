"""Pair matching and the relevance gap: what dev chooses, what test measures, what a bad file is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from dec2vec.errors import UserError
from eval.config import GapConfig, PairsConfig
from eval.tasks.gap import GapTask, independent_groups, load_gap, with_dealt_answers
from eval.tasks.pair_files import LabelledPairs, PairColumns, read_pairs
from eval.tasks.pair_task import PairEvidence
from eval.tasks.pairs import PairsTask, load_pairs
from eval.tasks.task import Task, TaskVectors, Texts
from tests.fake_encoder import WIDTH, FakeEncoder
from tests.helpers import write_jsonl

RESAMPLES = 6
SEED = 5


def rows(count: int, seed: int) -> list[dict[str, object]]:
    """Matches share more words."""
    generator = np.random.default_rng(seed)
    found: list[dict[str, object]] = []
    for number in range(count):
        words = [f"w{index}" for index in generator.choice(60, 8, replace=False)]
        label = int(generator.random() < 0.4)
        shared = int(generator.integers(2, 6)) if label else int(generator.integers(0, 4))
        second = [*words[:shared], *words[5 : 8 - (number % 2)]]
        found.append({"sentence1": " ".join(words[:5]), "sentence2": " ".join(second), "label": label})
    return found


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    parts = {"dev": rows(90, 1), "test": rows(120, 2)}
    return {name: str(write_jsonl(tmp_path / f"{name}.jsonl", part)) for name, part in parts.items()}


def embed(texts: Texts | None) -> TaskVectors:
    assert texts is not None
    encoder = FakeEncoder()
    none = np.zeros((0, WIDTH), dtype=np.float32)
    return TaskVectors(*(encoder.encode(side) if side else none for side in (texts.queries, texts.documents)))


def figures(task: Task) -> Mapping[str, tuple[float, np.ndarray]]:
    dev = None if task.dev is None else embed(task.dev)
    found = task.measure(dev, embed(task.test), RESAMPLES, SEED)
    assert found[0].metric == task.metric
    return {figure.metric: (figure.value, figure.resampled) for figure in found}


def drawn(task: Task, n: int, index: int) -> np.ndarray:
    return np.random.default_rng((task.seed_of(SEED), n, index)).integers(0, n, n)


def permuted(task: PairsTask) -> PairsTask:
    pairs = task.test_pairs
    return replace(task, test_pairs=replace(pairs, labels=np.random.default_rng(0).permutation(pairs.labels)))


def test_figures_against_scikit_learn_on_resampled_rows(files: dict[str, str]) -> None:
    task = load_pairs(PairsConfig(**files, criterion="f1"))
    assert isinstance(task, Task) and (task.name, task.metric) == ("test", "accuracy")
    evidence = task.evidence(embed(task.dev), embed(task.test))
    assert evidence.threshold is not None
    measures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "accuracy": lambda labels, cosines: sk.accuracy_score(labels, cosines >= evidence.threshold),
        "f1": lambda labels, cosines: sk.f1_score(labels, cosines >= evidence.threshold),
        "precision": lambda labels, cosines: sk.precision_score(labels, cosines >= evidence.threshold),
        "recall": lambda labels, cosines: sk.recall_score(labels, cosines >= evidence.threshold),
        "ap": sk.average_precision_score,
        "auc": sk.roc_auc_score,
    }
    found = figures(task)
    assert found.keys() == measures.keys()
    for name, measure in measures.items():
        value, resampled = found[name]
        assert value == pytest.approx(measure(evidence.labels, evidence.cosines))
        for index in range(RESAMPLES):
            part = drawn(task, len(evidence.labels), index)
            assert resampled[index] == pytest.approx(measure(evidence.labels[part], evidence.cosines[part]))
    assert found["auc"][0] > 0.7


def test_cosines_are_those_of_the_pairs_of_the_file(files: dict[str, str]) -> None:
    task = load_pairs(PairsConfig(**files))
    encoder = FakeEncoder()
    for row, cosine in zip(rows(120, 2), task.test_pairs.cosines(embed(task.test)), strict=True):
        first, second = encoder.encode([str(row["sentence1"]), str(row["sentence2"])])
        assert cosine == pytest.approx(float(first @ second), abs=1e-6)
    assert len(task.test.queries) == len(set(task.test.queries)) and not task.test.documents


@pytest.mark.parametrize(("criterion", "precision"), [("accuracy", None), ("f1", None), ("precision", 0.8)])
def test_test_labels_reach_no_choice(files: dict[str, str], criterion: str, precision: float | None) -> None:
    config = PairsConfig(**files, criterion=criterion, precision=precision)  # type: ignore[arg-type]
    task = load_pairs(config)
    dev, test = embed(task.dev), embed(task.test)
    other = permuted(task)
    assert task.evidence(dev, test).threshold == other.evidence(dev, test).threshold
    assert task.dev_score(dev) == other.dev_score(dev)
    assert figures(task)["accuracy"][0] != figures(other)["accuracy"][0]
    swapped = replace(task, dev_pairs=replace(task.dev_pairs, labels=~task.dev_pairs.labels))  # type: ignore[type-var]
    assert task.threshold(dev) != swapped.threshold(dev)


def test_a_threshold_keeps_the_wanted_precision_on_dev(files: dict[str, str]) -> None:
    task = load_pairs(PairsConfig(**files, criterion="precision", precision=0.9))
    dev = embed(task.dev)
    assert task.dev_pairs is not None
    accepted = task.dev_pairs.cosines(dev) >= task.threshold(dev)
    assert task.dev_pairs.labels[accepted].mean() >= 0.9
    impossible = TaskVectors(np.ones_like(dev.queries), dev.documents)
    assert task.threshold(impossible) == np.inf
    assert task.dev_score(impossible) == pytest.approx(1 - task.dev_pairs.labels.mean())


def test_rows_of_a_dev_file_that_is_not_named_are_refused(files: dict[str, str]) -> None:
    for options in ({"dev_only": ("label=1",)}, {"dev_limit": 3}):
        with pytest.raises(UserError, match="dev_only and dev_limit select rows of dev; give dev"):
            load_pairs(PairsConfig(test=files["test"], metric="ap", **options))


def test_without_dev_only_rankings_are_measured(files: dict[str, str]) -> None:
    task = load_pairs(PairsConfig(test=files["test"], metric="ap"))
    assert task.dev is None and figures(task).keys() == {"ap", "auc"}
    with pytest.raises(UserError, match="accuracy needs a threshold; give dev pairs, or use metric ap or auc"):
        load_pairs(PairsConfig(test=files["test"]))


def test_vectors_with_nan_give_nan(files: dict[str, str]) -> None:
    task = load_pairs(PairsConfig(**files))
    dev, test = embed(task.dev), embed(task.test)
    dev.queries[0] = np.nan
    assert np.isnan(task.dev_score(dev))
    found = {figure.metric: figure.value for figure in task.measure(dev, test, 3, 0)}
    assert np.isnan(found["accuracy"]) and not np.isnan(found["auc"])


def test_columns_formats_and_label_spellings(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("q,d,score\na,b,0\nc,d,1\ne,f,1.0\ng,h,4.5\n", encoding="utf-8")
    columns = PairColumns("q", "d", "score", positive_from=1.0)
    assert read_pairs(path, columns).labels.tolist() == [False, True, True, True]
    assert read_pairs(path, columns, limit=3).labels.tolist() == [False, True, True]
    assert read_pairs(path, columns, only=["q=a", "q=g"]).labels.tolist() == [False, True]
    spelt = [{"sentence1": "a", "sentence2": f"b{n}", "label": label} for n, label in enumerate((True, "0", "1", 0.0))]
    assert read_pairs(write_jsonl(tmp_path / "s.jsonl", spelt), PairColumns()).labels.tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_gap_and_auc(files: dict[str, str]) -> None:
    task = load_gap(GapConfig(**files))
    assert isinstance(task, Task)
    cosines, labels = task.test_pairs.cosines(embed(task.test)), task.test_pairs.labels
    found = figures(task)
    assert found["gap"][0] == pytest.approx(cosines[labels].mean() - cosines[~labels].mean())
    codes = np.unique(independent_groups(task.test_pairs.left, task.test_pairs.right), return_inverse=True)[1]
    n = codes.max() + 1
    for index in range(RESAMPLES):
        weights = np.bincount(drawn(task, n, index), minlength=n)[codes]
        yes, no = (np.average(cosines[part], weights=weights[part]) for part in (labels, ~labels))
        assert found["gap"][1][index] == pytest.approx(yes - no)
        assert found["relevant"][1][index] == pytest.approx(yes)
        assert found["irrelevant"][1][index] == pytest.approx(no)
        assert found["auc"][1][index] == pytest.approx(sk.roc_auc_score(labels, cosines, sample_weight=weights))
    assert task.dev_score(embed(task.dev)) > 0
    other = GapTask("gap", "auc", replace(task.test_pairs, labels=~labels), task.dev_pairs)
    assert figures(other)["auc"][0] == pytest.approx(1 - found["auc"][0])
    assert figures(other)["gap"][0] == pytest.approx(-found["gap"][0])


def test_gap_keeps_questions_and_answers_apart(files: dict[str, str]) -> None:
    task = load_gap(GapConfig(test=files["test"]))
    assert task.dev is None
    table = rows(120, 2)
    assert task.test.queries == list(dict.fromkeys(row["sentence1"] for row in table))
    assert task.test.documents == list(dict.fromkeys(row["sentence2"] for row in table))
    vectors = embed(task.test)
    swapped = TaskVectors(vectors.queries, -vectors.documents)
    np.testing.assert_allclose(task.test_pairs.cosines(swapped), -task.test_pairs.cosines(vectors))


def test_irrelevant_answers_can_be_dealt_out(tmp_path: Path) -> None:
    table: list[dict[str, object]] = [{"anchor": f"q{n // 2}", "positive": f"a{n % 7}"} for n in range(14)]
    path = str(write_jsonl(tmp_path / "qa.jsonl", table))
    task = load_gap(GapConfig(test=path, question="anchor", answer="positive", label=None))
    pairs = task.test_pairs
    named = [
        (pairs.texts.queries[left], pairs.texts.documents[right])
        for left, right in zip(pairs.left, pairs.right, strict=True)
    ]
    relevant = {pair for pair, label in zip(named, pairs.labels, strict=True) if label}
    irrelevant = {pair for pair, label in zip(named, pairs.labels, strict=True) if not label}
    assert relevant == {(row["anchor"], row["positive"]) for row in table}
    assert irrelevant and not relevant & irrelevant
    with pytest.raises(UserError, match="all questions have the same answers"):
        with_dealt_answers("x", ["a", "b"], ["same", "same"], 0)


def groups_by_hand(pairs: LabelledPairs) -> list[int]:
    """Sizes of the sets of pairs that texts connect, by merging them one after another."""
    groups: list[tuple[set[tuple[str, int]], int]] = []
    for left, right in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
        texts = {("question", left), ("answer", right)}
        joined = [group for group in groups if group[0] & texts]
        groups = [group for group in groups if not group[0] & texts]
        groups.append((texts.union(*(group[0] for group in joined)), 1 + sum(group[1] for group in joined)))
    return sorted(count for _, count in groups)


@pytest.mark.parametrize("n", [40, 41])
def test_questions_swap_answers_by_twos_and_are_resampled_together(n: int) -> None:
    """So that every pair counts once, and two pairs of one question are not taken for two pieces of evidence."""
    pairs = with_dealt_answers("x", [f"q{row}" for row in range(n)], [f"a{row}" for row in range(n)], 3)
    sizes = sorted(np.unique(independent_groups(pairs.left, pairs.right), return_counts=True)[1].tolist())
    assert sizes == groups_by_hand(pairs) == ([4] * 20 if n == 40 else [4] * 19 + [6])
    assert np.bincount(pairs.right[~pairs.labels], minlength=n).tolist() == [1] * n
    ones = PairEvidence(np.arange(2.0 * n), pairs.labels, groups=independent_groups(pairs.left, pairs.right))
    found = {figure.metric: figure for figure in GapTask("x", "gap", pairs).figures(ones, 50, 0)}
    assert (found["gap"].interval is not None) == (n == 40), "41 questions are groups of unlike size: 19 of one size"
    assert n == 40 or found["auc"].no_interval == "fewer than 20 groups of pairs that share no text (19)"


def test_the_answers_of_one_question_stay_together_and_a_web_of_them_gets_no_interval() -> None:
    several = with_dealt_answers("x", [f"q{row // 3}" for row in range(120)], [f"a{row}" for row in range(120)], 0)
    assert (
        np.unique(independent_groups(several.left, several.right), return_counts=True)[1].tolist()
        == [12] * 20
        == groups_by_hand(several)
    )
    web = with_dealt_answers("x", [f"q{row // 2}" for row in range(200)], [f"a{row % 67}" for row in range(200)], 0)
    assert np.unique(independent_groups(web.left, web.right)).size == 1 and not web.labels[200:].any()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentence1": "a", "sentence2": "b", "label": 2}, "p.jsonl line 2: label 2 is not 0 or 1; correct it"),
        ({"sentence1": "a", "sentence2": "b", "label": "yes"}, "p.jsonl line 2: label 'yes' is not 0 or 1"),
        ({"sentence1": "a", "sentence2": "b", "label": None}, "p.jsonl line 2: label None is not 0 or 1"),
        ({"sentence1": "a", "sentence2": " ", "label": 1}, "p.jsonl line 2: sentence2 is blank"),
        ({"sentence1": "a", "sentence2": "b"}, "p.jsonl line 2: no 'label'; this row has: sentence1, sentence2"),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, "p: every label is 0; add pairs with label 1"),
    ],
)
def test_bad_files(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 0}, row])
    with pytest.raises(UserError) as error:
        read_pairs(path, PairColumns())
    assert message in str(error.value)


def test_bad_options(files: dict[str, str], tmp_path: Path) -> None:
    cases = {
        "no column 'q'; the columns are: sentence1, sentence2, label": PairsConfig(**files, sentence1="q"),
        "criterion precision: set": PairsConfig(**files, criterion="precision"),
        "precision 0.5 is for criterion precision": PairsConfig(**files, precision=0.5),
        "test contains the pairs of test": PairsConfig(test=files["test"], dev=files["test"]),
        "no row has label=3": PairsConfig(**files, dev_only=("label=3",)),
    }
    for message, config in cases.items():
        with pytest.raises(UserError, match=message):
            load_pairs(config)
    path = write_jsonl(tmp_path / "g.jsonl", [{"sentence1": "a", "sentence2": "b", "label": "high"}])
    with pytest.raises(UserError, match="label 'high' is not a number"):
        read_pairs(path, PairColumns(positive_from=3.0))


def test_resampled_figures_of_two_systems_are_paired(files: dict[str, str]) -> None:
    task = load_pairs(PairsConfig(**files))
    one, two = figures(task), figures(task)
    np.testing.assert_array_equal(one["accuracy"][1], two["accuracy"][1])
    assert LabelledPairs.from_texts("x", ["a", "b"], ["c", "a"], [True, False]).texts.queries == ["a", "b", "c"]
