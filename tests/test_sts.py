"""Similarity files as tasks: each text once, cosines in place, known sizes of the published sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from dec2vec.errors import UserError
from eval.tasks.sts import dev_score, load_task
from eval.tasks.task import TaskVectors
from tests.eval_data import write_similarity
from tests.fake_encoder import FakeEncoder

SHARED = Path(__file__).parents[2] / "shared" / "data" / "sts_en"
SIZES = {
    "sts12": (3108, 5),
    "sts13": (1500, 3),
    "sts14": (3750, 6),
    "sts15": (3000, 5),
    "sts16": (1186, 5),
    "stsb": (1379, 1),
    "sickr": (4927, 1),
}
"""Pairs and sub-sets of the published test sets."""


def write(path: Path, rows: list[tuple[str, str, float, str]]) -> Path:
    keys = ("sentence1", "sentence2", "score", "subset")
    path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    return path


ROWS = [("a", "b", 1.0, "x"), ("b", "c", 2.0, "y"), ("a", "c", 4.0, "x"), ("d", "d", 5.0, "y")]


def test_each_text_once_and_pairs_in_place(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "toy.test.jsonl", ROWS))
    pairs = task.test_pairs
    assert task.name == task.chosen_on == "toy.test" and task.dev_pairs is pairs
    assert sorted(task.test.queries) == ["a", "b", "c", "d"] and task.test.documents == []
    assert task.items == [row[:2] for row in ROWS]
    assert [pairs.subset_names[code] for code in pairs.subsets] == ["x", "y", "x", "y"]
    assert pairs.gold.tolist() == [1, 2, 4, 5]
    assert len(pairs) == 4


def test_cosines_follow_the_texts(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "toy.jsonl", ROWS))
    encoder = FakeEncoder()
    vectors = encoder.encode(task.test.queries)
    expected = [float(encoder.encode([a])[0] @ encoder.encode([b])[0]) for a, b, *_ in ROWS]
    np.testing.assert_allclose(task.test_pairs.cosines(TaskVectors.from_queries(vectors)), expected, atol=1e-6)
    gold = [row[2] for row in ROWS]
    assert dev_score(encoder, task) == pytest.approx(spearmanr(expected, gold).statistic)


def test_three_aggregations_are_three_figures(tmp_path: Path) -> None:
    task = load_task(write_similarity(tmp_path / "t.jsonl", 60, 1))
    vectors = FakeEncoder().encode(task.test.queries)
    dev = task.dev_score(TaskVectors.from_queries(vectors))
    figures = task.measure(None, TaskVectors.from_queries(vectors), 100, 0)
    assert [figure.metric for figure in figures] == ["spearman_all", "spearman_mean", "spearman_wmean"]
    assert figures[0].metric == task.metric and figures[0].value == dev
    pairs = task.test_pairs
    cosines = pairs.cosines(TaskVectors.from_queries(vectors))
    parts = [pairs.subsets == code for code in range(3)]
    values = [spearmanr(cosines[part], pairs.gold[part]).statistic for part in parts]
    assert figures[1].value == pytest.approx(np.mean(values))
    assert figures[2].value == pytest.approx(np.average(values, weights=[part.sum() for part in parts]))
    for figure in figures:
        low, high = np.percentile(figure.resampled, (2.5, 97.5))
        assert low < figure.value < high and figure.n == 60


def test_hash_sees_texts_scores_and_order(tmp_path: Path) -> None:
    def digest(rows: list[tuple[str, str, float, str]]) -> str:
        return load_task(write(tmp_path / "t.jsonl", rows)).content_hash

    assert digest(ROWS) == digest(list(ROWS))
    assert digest(ROWS) != digest(ROWS[::-1])
    assert digest(ROWS) != digest([("a", "b", 1.5, "x"), *ROWS[1:]])


def test_equal_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="flat: every score is 3; a correlation needs different scores"):
        load_task(write(tmp_path / "flat.jsonl", [("a", "b", 3.0, ""), ("c", "d", 3.0, "")]))


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name: str) -> None:
    path = SHARED / f"{name}.test.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    task = load_task(path)
    assert (len(task.test_pairs), len(task.test_pairs.subset_names)) == SIZES[name]
