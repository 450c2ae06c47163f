"""No column is read while another that could serve is dropped without a word."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dec2vec.errors import UserError
from eval.config import (
    ClusteringConfig,
    EvalConfig,
    GapConfig,
    IsotropyConfig,
    PairsConfig,
    SystemsConfig,
    TopicsConfig,
)
from eval.metrics.isotropy import alignment
from eval.report.report import headline
from eval.run import evaluate
from eval.tasks.clustering import load_clustering
from eval.tasks.columns import ColumnsRead, column_notes
from eval.tasks.gap import load_gap
from eval.tasks.isotropy import load_isotropy
from eval.tasks.pairs import load_pairs
from eval.tasks.retrieval import load_retrieval
from eval.tasks.sts import load_task
from eval.tasks.task import TaskVectors
from eval.tasks.topic_files import load_topics
from tests.eval_data import write_similarity
from tests.fake_encoder import FakeEncoder
from tests.helpers import write_jsonl

Rows = list[dict[str, object]]
KINDS = ("entailment", "neutral", "contradiction")


def graded(count: int = 30) -> Rows:
    """Scores of 0 to 5 in thirds; labels, which run the other way, as names."""
    return [
        {"sentence1": f"a{n} x", "sentence2": f"b{n} y", "score": n % 16 / 3, "label": KINDS[n % 3]}
        for n in range(count)
    ]


@pytest.mark.parametrize("as_number", [False, True])
def test_a_file_with_scores_is_measured_by_them(tmp_path: Path, as_number: bool) -> None:
    """Names of labels are no obstacle, and label 1 (neutral) is not what means the same."""
    rows = [{**row, "label": KINDS.index(str(row["label"])) if as_number else row["label"]} for row in graded()]
    task = load_isotropy(write_jsonl(tmp_path / "sick.jsonl", rows))
    expected = [row for row in rows if float(str(row["score"])) > 4]
    assert [task.texts[at] for at in task.left] == [row["sentence1"] for row in expected]
    assert [task.texts[at] for at in task.right] == [row["sentence2"] for row in expected]
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(len(task.texts), 5)).astype(np.float32)
    figures = {figure.metric: figure for figure in task.measure(None, TaskVectors.from_queries(vectors), 100, 0)}
    assert figures["alignment"].value == pytest.approx(alignment(vectors[task.left], vectors[task.right]))
    assert figures["alignment"].n == len(expected) == 4
    [read] = task.columns
    assert read.used == ("sentence1", "sentence2", "score") and read.unused == ("label",)
    assert read.note == "column score is used; label is there too and not used"
    alone = load_isotropy(write_jsonl(tmp_path / "alone.jsonl", [{**row, "label": None} for row in rows]))
    np.testing.assert_array_equal(alone.left, task.left)


def test_close_is_compared_with_scores_alone(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", graded())
    assert len(load_isotropy(path, close=0.5).left) == sum(n % 16 / 3 > 0.5 for n in range(30))
    with pytest.raises(UserError, match="no pair has a score above 5; set close according to the scores"):
        load_isotropy(path, close=5.0)
    others: dict[str, Rows] = {
        "text": [{"text": name} for name in "abc"],
        "pairs": [{"anchor": f"a{n}", "positive": f"b{n}"} for n in range(3)],
        "labels": [{"sentence1": f"a{n}", "sentence2": f"b{n}", "label": n % 2} for n in range(4)],
    }
    for name, rows in others.items():
        file = write_jsonl(tmp_path / f"{name}.jsonl", rows)
        assert len(load_isotropy(file).left) == {"text": 0, "pairs": 3, "labels": 2}[name]
        with pytest.raises(UserError, match=r"close 2 is compared with the column score, which is not used"):
            load_isotropy(file, close=2.0)


def test_labels_of_more_than_two_kinds_are_no_matches(tmp_path: Path) -> None:
    rows = [{"sentence1": f"a{n}", "sentence2": f"b{n}", "label": n % 3} for n in range(9)]
    with pytest.raises(UserError, match=r"t.jsonl line 3: label 2 is not 0 or 1; give 1 to pairs that mean the same"):
        load_isotropy(write_jsonl(tmp_path / "t.jsonl", rows))
    with pytest.raises(UserError, match=r"line 1: score 'high' is not a finite number"):
        load_isotropy(write_jsonl(tmp_path / "s.jsonl", [{**row, "score": "high"} for row in rows]))


def test_pairs_of_anchor_and_positive_are_all_close(tmp_path: Path) -> None:
    rows: Rows = [{"anchor": f"a{n}", "positive": f"b{n}", "score": n, "other": 1} for n in range(4)]
    task = load_isotropy(write_jsonl(tmp_path / "p.jsonl", rows))
    assert len(task.left) == 4
    assert task.columns[0].note == "every pair of anchor and positive counts as equivalent; score not used"


def test_every_reader_says_what_it_read(tmp_path: Path) -> None:
    """By task the used columns, and what else would have served."""
    sts = write_jsonl(tmp_path / "sts.jsonl", [*graded(), {"sentence1": "c", "sentence2": "d", "score": None}])
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{**row, "label": n % 2} for n, row in enumerate(graded())])
    topics = write_jsonl(
        tmp_path / "topics.jsonl",
        [{"text": f"t{n}", "label": n % 2, "label_text": "ab"[n % 2], "title": "x"} for n in range(8)],
    )
    (tmp_path / "search").mkdir()
    write_jsonl(tmp_path / "search" / "corpus.jsonl", [{"_id": "1", "id": "2", "title": "t", "text": "x", "url": "u"}])
    write_jsonl(tmp_path / "search" / "queries.jsonl", [{"_id": "q", "text": "x", "title": "y"}])
    write_jsonl(tmp_path / "search" / "qrels.jsonl", [{"query-id": "q", "corpus-id": "2", "score": 1}])
    found = {
        "sts": load_task(sts).columns,
        "pairs": load_pairs(PairsConfig(test=str(pairs), metric="ap")).columns,
        "gap": load_gap(GapConfig(test=str(pairs), label=None)).columns,
        "topics": load_topics(TopicsConfig(test=str(topics))).columns,
        "clustering": load_clustering(ClusteringConfig(test=str(topics))).columns,
        "search": load_retrieval(tmp_path / "search").columns,
    }
    labelled = "column text is used; title is there too and not used; column label is used; label_text is there too and"
    assert {name: [read.note for read in columns] for name, columns in found.items()} == {
        "sts": [
            "1 of 31 pairs have no score and are left out; column score is used; label is there too and not used",
            "1 of 31 pairs have no score and are left out; column score is used; label is there too and not used",
        ],
        "pairs": ["column label is used; score is there too and not used"],
        "gap": ["every row counts as relevant; label is there and not used"],
        "topics": [f"{labelled} not used"],
        "clustering": [f"{labelled} not used"],
        "search": [
            "column id is used; _id is there too and not used",
            "column text is used; title is there too and not used",
            "",
        ],
    }
    assert found["search"][0].used == ("id", "text", "title") and found["search"][0].unused == ("_id", "url")


def test_the_report_says_it_once(tmp_path: Path) -> None:
    """In its notes where more than one column could serve, in its provenance always. Figures are of the scores."""
    path = write_jsonl(tmp_path / "sick.jsonl", graded())
    dev, plain = write_similarity(tmp_path / "dev.jsonl", 40, 1), tmp_path / "plain.jsonl"
    write_jsonl(plain, [{name: value for name, value in row.items() if name != "label"} for row in graded()])
    config = EvalConfig(
        dev=str(dev),
        tests=(str(path), str(plain)),
        isotropy=(IsotropyConfig(path=str(path)),),
        systems=SystemsConfig(prompts=("bare",), poolings=("last",), post=("raw",)),
        bootstrap=100,
    )
    report = evaluate(config, base=FakeEncoder(), tuned={}, progress=False)
    notes = [line for line in headline(report) if "is used" in line]
    assert notes == ["Note: sick.jsonl: column score is used; label is there too and not used."]
    columns = json.loads(json.dumps(report.provenance["columns"]))
    assert columns["sick"][0]["unused"] == ["label"] and columns["plain"][0]["unused"] == []
    values = {report.result(name, task).value for name in report.systems for task in ("sick", "plain")}
    assert len(values) == len(report.systems)


def test_files_that_are_alike_are_noted_once() -> None:
    read = ColumnsRead("a.jsonl", ("score",), ("label",), "x")
    assert column_notes([read, read, ColumnsRead("b.jsonl", ("text",), ())]) == ["Note: a.jsonl: x."]
