"""Similarity files as tasks: each text once, cosines in place, known sizes of the published sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from dec2vec.errors import UserError
from eval.tasks.sts import dev_score, load_task
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
    assert task.name == "toy.test"
    assert sorted(task.texts) == ["a", "b", "c", "d"]
    assert [(task.texts[i], task.texts[j]) for i, j in zip(task.left, task.right, strict=True)] == [
        row[:2] for row in ROWS
    ]
    assert [task.subset_names[code] for code in task.subsets] == ["x", "y", "x", "y"]
    assert task.gold.tolist() == [1, 2, 4, 5]
    assert len(task) == 4


def test_cosines_follow_the_texts(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "toy.jsonl", ROWS))
    encoder = FakeEncoder()
    vectors = encoder.encode(task.texts)
    expected = [float(encoder.encode([a])[0] @ encoder.encode([b])[0]) for a, b, *_ in ROWS]
    np.testing.assert_allclose(task.cosines(vectors), expected, atol=1e-6)
    gold = [row[2] for row in ROWS]
    assert dev_score(encoder, task) == pytest.approx(spearmanr(expected, gold).statistic)


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
    assert (len(task), len(task.subset_names)) == SIZES[name]
