"""Scores and margins of a reranker in rows: which of the two a source has, and rows with scores of another length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from dec2vec.errors import UserError
from dec2vec.files import tables
from tests.peer_files import jsonl
from tests.test_reranker import known, read
from train.mining.pairs import read_material


def scored_rows(count: int) -> list[dict[str, object]]:
    names = {"negative_1": "c", "negative_2": "d"}
    return [{"anchor": f"a{i}", "positive": f"b{i}", **names, "scores": [9.0, 1.0, float(i)]} for i in range(count)]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("margins", [False, True])
def test_scores_of_another_length_are_left_out_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, margins: bool, streaming: bool
) -> None:
    """A list that lacks one score is not read as margins, nor margins with one too many as scores."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{**row, "scores": row["scores"][margins:]} for row in scored_rows(200)]  # type: ignore[index]
    rows[7]["scores"] = [9.0, 1.0, 2.0] if margins else [9.0, 1.0]
    path = jsonl(tmp_path / "t.jsonl", [*rows])
    data = read(path, streaming=streaming)
    expected = [[0.0, -1.0, -float(i)] if margins else [9.0, 1.0, float(i)] for i in range(200) if i != 7]
    assert known(data) == expected and len(data) == 199
    line = data.told[0].layout[-2]
    assert line.startswith("left out 1 of 200 rows: 1 with scores of another length than the texts (first: ")
    assert f"line 8: scores has {2 + margins} numbers in place of {3 - margins}" in line
    with pytest.raises(UserError, match=r"1 of 200 rows: .* more than data.0.bad_rows 0.001 allows"):
        read(path, bad_rows=0.001, streaming=streaming)


def test_columns_of_scores_are_those_of_the_whole_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the first block have labels alone, which are no scores where later rows have teacher_scores."""
    monkeypatch.setattr(tables, "BLOCK", 2)
    rows = [{**row, "label": row["scores"]} for row in scored_rows(4)]
    for number, row in enumerate(rows):
        row.pop("scores")
        row |= {"teacher_scores": [3.0, 2.0, 1.0]} if number >= 2 else {}
    assert known(read(jsonl(tmp_path / "t.jsonl", [*rows]))) == [[None] * 3] * 2 + [[3.0, 2.0, 1.0]] * 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"teacher_scores": [3.5]}, [0.0, -3.5]),
        ({"teacher_scores": 3.5}, [0.0, -3.5]),
        ({"label": 3.5}, [0.0, -3.5]),
        ({"scores": [3.5, None]}, [3.5, None]),
        ({"labels": ["news", "sport"]}, None),
    ],
)
def test_mine_keeps_scores_and_margins(tmp_path: Path, given: dict[str, object], expected: object) -> None:
    rows: list[Any] = [{"anchor": f"a{i}", "positive": f"b{i}", "negative_1": "n", **given} for i in range(3)]
    material = read_material(str(jsonl(tmp_path / "t.jsonl", rows)))
    assert list(material.teacher_scores) == [expected] * 3
    assert material.other_columns == [{} if "teacher_scores" in given else given] * 3
    rows[1]["teacher_scores"] = [1.0, 2.0, 3.0]
    with pytest.raises(UserError, match=r"t.jsonl line 2: teacher_scores has 3 numbers in place of \d .*write null"):
        read_material(str(jsonl(tmp_path / "t.jsonl", rows)))
