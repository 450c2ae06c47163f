"""What holds for every kind of task: no test label reaches a choice, and items can be left out one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dec2vec.decoder.pooling import View
from eval.config import ClusteringConfig, EvalConfig, GapConfig, PairsConfig, SystemsConfig, TopicsConfig
from eval.leakage.overlap import EvaluationSet, clean_rows, evaluation_sets, measure, train_splits
from eval.postprocess.moments import Material
from eval.report.markdown import to_markdown
from eval.report.report import Report
from eval.run import evaluate
from eval.selection.judge import EvaluationOptions, Measured, Reader, judge
from eval.tasks.clustering import load_clustering
from eval.tasks.gap import load_gap
from eval.tasks.pairs import load_pairs
from eval.tasks.retrieval import load_retrieval
from eval.tasks.task import Task, TaskVectors, Texts, clean_figure
from eval.tasks.topic_files import load_topics
from tests.eval_data import write_similarity
from tests.fake_encoder import FakeEncoder
from tests.helpers import write_jsonl

Rows = list[dict[str, Any]]
KINDS = ("pairs", "pairs-precision", "gap", "word", "calibrated", "knn", "probe", "clustering", "retrieval")
VIEWS = [View(pooling, layer) for pooling in ("last", "mean") for layer in range(3)]  # type: ignore[arg-type]
MATERIAL = Material(posts=("raw", "truncate"), dimensions=(12, 8), batch_tokens=1024, progress=False)
OPTIONS = EvaluationOptions(MATERIAL, resamples=100, seed=0)


def text_of(topic: int, generator: np.random.Generator) -> str:
    words = [f"t{topic}w{word}" for word in generator.integers(0, 12, 5)]
    return " ".join([*words, f"n{generator.integers(40)}"])


def pair_rows(seed: int, count: int = 40) -> Rows:
    generator = np.random.default_rng(seed)
    topics = [(row % 3, (row + row % 2) % 3) for row in range(count)]
    return [
        {"sentence1": text_of(one, generator), "sentence2": text_of(two, generator), "label": int(one == two)}
        for one, two in topics
    ]


def topic_rows(seed: int, count: int = 30) -> Rows:
    generator = np.random.default_rng(seed)
    labels = ["_".join(f"t{topic}w{word}" for word in range(6)) for topic in range(3)]
    return [{"text": text_of(row % 3, generator), "label": labels[row % 3]} for row in range(count)]


def judged_rows(seed: int, queries: int, documents: int) -> Rows:
    """Documents and queries are of topic number modulo 3."""
    return [
        {"query_id": f"{seed}-{query}", "doc_id": f"d{document}", "score": int(query % 3 == document % 3)}
        for query in range(queries)
        for document in range(documents)
    ]


def permuted(rows: Rows, column: str) -> Rows:
    values = np.random.default_rng(0).permutation([row[column] for row in rows]).tolist()
    return [{**row, column: value} for row, value in zip(rows, values, strict=True)]


def make(kind: str, folder: Path, *, kept: Sequence[int] | None = None, permute: bool = False) -> Task:
    """Written to files and read again, with dev data of its own; `kept` test items alone, or all."""

    def test(rows: Rows, column: str) -> Rows:
        found = permuted(rows, column) if permute else rows
        return found if kept is None else [found[row] for row in kept]

    if kind == "retrieval":
        generator = np.random.default_rng(3)
        write_jsonl(folder / "corpus.jsonl", [{"id": f"d{i}", "text": text_of(i % 3, generator)} for i in range(12)])
        texts = {seed: [{"id": f"{seed}-{i}", "text": text_of(i % 3, generator)} for i in range(9)] for seed in (1, 2)}
        write_jsonl(folder / "queries.jsonl", texts[1] if kept is None else [texts[1][row] for row in kept])
        ids = {f"1-{row}" for row in (range(9) if kept is None else kept)}
        judged = permuted(judged_rows(1, 9, 12), "score") if permute else judged_rows(1, 9, 12)
        write_jsonl(folder / "qrels.jsonl", [row for row in judged if row["query_id"] in ids])
        write_jsonl(folder / "dev_queries.jsonl", list(texts[2]))
        write_jsonl(folder / "dev_qrels.jsonl", judged_rows(2, 9, 12))
        return load_retrieval(folder)
    files = {"test": str(folder / "test.jsonl"), "dev": str(folder / "dev.jsonl")}
    if kind in ("pairs", "pairs-precision", "gap"):
        write_jsonl(folder / "test.jsonl", test(pair_rows(1), "label"))
        write_jsonl(folder / "dev.jsonl", pair_rows(2))
        if kind == "gap":
            return load_gap(GapConfig(**files))
        wanted: dict[str, Any] = {} if kind == "pairs" else {"criterion": "precision", "precision": 0.9}
        return load_pairs(PairsConfig(**files, **wanted))
    write_jsonl(folder / "test.jsonl", test(topic_rows(1), "label"))
    write_jsonl(folder / "dev.jsonl", topic_rows(2))
    if kind == "clustering":
        return load_clustering(ClusteringConfig(**files, seeds=2))
    if kind in ("word", "calibrated"):
        return load_topics(TopicsConfig(**files, calibrated=kind == "calibrated"))
    train = str(write_jsonl(folder / "train.jsonl", topic_rows(3, 45)))
    method: Any = kind
    return load_topics(TopicsConfig(**files, train=train, method=method, neighbours=(1, 5), strengths=(0.01, 1.0)))


def judged(task: Task) -> list[Measured]:
    reader = Reader.from_encoder(FakeEncoder(noise=(4.0, 1.0, 2.0)), "bare", VIEWS, OPTIONS)
    return judge(reader, task, [])


def choices(row: Measured) -> tuple[object, ...]:
    """Everything that was chosen: system and strength, by which dev score, and what dev set inside the task."""
    assert row.choice is not None and row.evidence is not None
    return row.name, row.dev_score, row.choice.chosen_on, row.remarks, row.evidence.chosen


@pytest.mark.parametrize("kind", KINDS)
def test_permuted_test_labels_change_no_choice(kind: str, tmp_path: Path) -> None:
    honest, blind = judged(make(kind, tmp_path)), judged(make(kind, tmp_path, permute=True))
    assert len(honest) == 2 and all(row.dev_score is not None for row in honest)
    assert [choices(row) for row in honest] == [choices(row) for row in blind]
    values, wrong = ([row.figures[0].value for row in rows] for rows in (honest, blind))
    assert max(values) > max(wrong) + 0.03, "the labels did reach the figures"


def test_permuted_dev_labels_do_change_choices(tmp_path: Path) -> None:
    """The negative control: a choice that looks at labels is seen by `choices`."""
    task = make("pairs", tmp_path)
    write_jsonl(tmp_path / "dev.jsonl", permuted(pair_rows(2), "label"))
    other = load_pairs(PairsConfig(str(tmp_path / "test.jsonl"), str(tmp_path / "dev.jsonl")))
    assert [choices(row) for row in judged(task)] != [choices(row) for row in judged(other)]


def vectors(texts: Texts | None) -> TaskVectors:
    """A vector a text, whatever stands beside it."""

    def rows(side: Sequence[str]) -> np.ndarray:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in side]
        return np.array([np.random.default_rng(seed).standard_normal(8) for seed in seeds], np.float32).reshape(-1, 8)

    return TaskVectors(rows([] if texts is None else texts.queries), rows([] if texts is None else texts.documents))


@pytest.mark.parametrize("kind", KINDS)
def test_items_left_out_are_as_if_they_had_never_been(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one seed for both: a task's own seed depends on its texts, and the other task has fewer."""
    monkeypatch.setattr(Task, "seed_of", lambda self, seed: seed)
    task = make(kind, tmp_path)
    rows = np.array([0, 2, 3, 5, 6, 7], dtype=np.int64)
    dev, test = vectors(task.dev), vectors(task.test)
    evidence = task.evidence(dev, test)
    found = task.figures(evidence.at(rows), 100, 0)
    clean = clean_figure(task, evidence, rows, 100, 0)
    assert clean.clean and (clean.metric, clean.value, clean.n) == (task.metric, found[0].value, len(rows))
    other = make(kind, tmp_path, kept=rows.tolist())
    assert task.items is not None and other.items == [task.items[row] for row in rows]
    expected = other.measure(dev, vectors(other.test), 100, 0)
    assert [figure.metric for figure in found] == [figure.metric for figure in expected]
    for one, two in zip(found, expected, strict=True):
        assert one.n == two.n == len(rows)
        assert one.value == pytest.approx(two.value, abs=1e-12)
        np.testing.assert_allclose(one.resampled, two.resampled, atol=1e-12)


@pytest.mark.parametrize("kind", ["pairs", "gap", "clustering"])
def test_items_of_one_kind_alone_allow_no_figure(kind: str, tmp_path: Path) -> None:
    task = make(kind, tmp_path)
    alike = np.array([0, 6, 12] if kind == "clustering" else [0, 2, 4], dtype=np.int64)
    figure = clean_figure(task, task.evidence(vectors(task.dev), vectors(task.test)), alike, 100, 0)
    assert figure.n == 3 and np.isnan(figure.value) and np.isnan(figure.resampled).all()


def with_copies(tmp_path: Path, copied: Sequence[str]) -> Report:
    write_jsonl(tmp_path / "test.jsonl", pair_rows(1))
    write_jsonl(tmp_path / "dev.jsonl", pair_rows(2))
    config = EvalConfig(
        dev=str(write_similarity(tmp_path / "sts.dev.jsonl", 40, 1)),
        tests=(str(write_similarity(tmp_path / "sts.jsonl", 40, 2)),),
        systems=SystemsConfig(prompts=("bare",), poolings=("last",), post=("raw",)),
        pairs=(PairsConfig(str(tmp_path / "test.jsonl"), str(tmp_path / "dev.jsonl"), name="same"),),
        bootstrap=100,
    )
    tuned = {"a": FakeEncoder(noise=(4.0, 0.3, 0.3))}
    return evaluate(config, base=FakeEncoder(), tuned=tuned, training_texts={"pairs": copied}, progress=False)


def test_scores_on_what_training_has_not_shown(tmp_path: Path) -> None:
    rows = pair_rows(1)
    copied = [row["sentence2"].upper() for row in rows[:11]]
    report = with_copies(tmp_path, copied)
    [table] = report.tasks
    clean = {row.system: row for row in table.rows if row.clean}
    assert {row.metric for row in clean.values()} == {"accuracy"}
    seen = {text.lower() for text in copied}
    left = [i for i, row in enumerate(rows) if not {row["sentence1"], row["sentence2"]} & seen]
    assert "tuned/a" in clean and {row.n for row in clean.values()} == {len(left)} and len(left) < 40
    write_jsonl(tmp_path / "left.jsonl", [rows[row] for row in left])
    task, encoder = (
        load_pairs(PairsConfig(str(tmp_path / "left.jsonl"), str(tmp_path / "dev.jsonl"))),
        FakeEncoder(noise=(4.0, 0.3, 0.3)),
    )
    assert task.dev is not None
    dev, test = (
        TaskVectors.from_queries(found) for found in (encoder.encode(texts.queries) for texts in (task.dev, task.test))
    )
    assert clean["tuned/a"].value == pytest.approx(task.measure(dev, test, 100, 0)[0].value)
    assert f"Overlap: {40 - len(left)} of 40 items have a text that is in, or close to" in table.note
    [gap] = [row for row in clean.values() if row.subject.kind == "difference"]
    ours, rival = gap.subject.of
    assert gap.value == pytest.approx(clean[ours].value - clean[rival].value)
    assert "accuracy (clean) x 100" in to_markdown(report)
    counts = {row.evaluation: row for row in report.overlap if row.training == "pairs"}
    assert (counts["same"].pairs, counts["same"].pairs_clean) == (40, len(left))


def test_nothing_is_said_where_nothing_was_shown(tmp_path: Path) -> None:
    [table] = with_copies(tmp_path, ["something else altogether"]).tasks
    assert not any(row.clean for row in table.rows) and "Overlap" not in table.note
    [table] = with_copies(tmp_path, [row[side] for row in pair_rows(1) for side in ("sentence1", "sentence2")]).tasks
    assert "40 of 40 items" in table.note and "The other 0 are too few for a score" in table.note


def test_train_splits_of_a_task_count_as_training(tmp_path: Path) -> None:
    task = make("knn", tmp_path)
    copy = topic_rows(1)[4]
    write_jsonl(tmp_path / "train.jsonl", [*topic_rows(3, 45), {**copy, "text": copy["text"].upper()}])
    config = TopicsConfig(**{name: str(tmp_path / f"{name}.jsonl") for name in ("test", "dev", "train")}, method="knn")
    leaky = load_topics(config)
    for found, left in ((task, 30), (leaky, 29)):
        seen = measure({}, evaluation_sets([], [found]), train_splits([found]))
        [counts] = seen.counts
        assert (counts.training, counts.evaluation, counts.pairs_clean) == (f"{found.name} train", found.name, left)
        assert set(clean_rows(seen.clean, [found])) == ({found.name} if left < 30 else set())
    assert 4 not in clean_rows(seen.clean, [leaky])[leaky.name]


def test_evaluation_sets_hold_the_scored_items(tmp_path: Path) -> None:
    sets = {item.name: item for item in evaluation_sets([], [make("retrieval", tmp_path)])}
    name = tmp_path.name
    assert {key: len(item.items) for key, item in sets.items()} == {name: 9, f"{name} corpus": 12, f"{name} dev": 21}
    two = EvaluationSet.from_items("x", [("a", "b"), ("b", "a"), ("a", "a")])
    assert two.texts == ["a", "b"] and two.items.tolist() == [[0, 1], [1, 0], [0, 0]]
