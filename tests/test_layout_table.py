"""The table of docs/guides/data.md: every layout in it loads, and becomes the rows and negatives that it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dec2vec.files.layouts.recognise import LAYOUTS
from tests.peer_files import NARROWER, Pairs, nemo_ids, pairs, tevatron_ids
from train.data.dataset import TrainingData, load_data
from train.options.data import SourceConfig

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "data.md"
FILES: dict[str, tuple[Callable[[Path, Pairs], Path], int]] = {
    "Tevatron with ids": (tevatron_ids, 2),
    "NeMo with ids": (nemo_ids, 2),
    "SimCSE": NARROWER["simcse"],
    "MS MARCO triples": NARROWER["triples"],
    "MS MARCO ids": NARROWER["triple_ids"],
    "BEIR, mteb": NARROWER["beir"],
}
"""Layouts that are more than a row of JSON, and the negatives of each row of their file."""


def table() -> list[tuple[str, str, str]]:
    """Layout, row and what it becomes."""
    section = GUIDE.read_text(encoding="utf-8").partition("## Layouts")[2].partition("\n- ")[0]
    rows = re.findall(r"^\| ([^|]+) \| (.+) \| ([^|]+) \|$", section, re.MULTILINE)
    assert rows[0] == ("layout", "a row", "becomes")
    return rows[1:]


def read(path: Path) -> TrainingData:
    return load_data([SourceConfig(str(path))])


def written(folder: Path, layout: str, row: str) -> Path:
    """A file of the layout: two rows like that of the table, or what a writer makes of three pairs."""
    if not is_json(row):
        return FILES[layout][0](folder, pairs(3))
    path = folder / "rows.jsonl"
    other = row.replace('"p"', '"q"').replace('"a"', '"b"')
    path.write_text(f"{row[1:-1]}\n{other[1:-1]}\n")
    return path


def is_json(row: str) -> bool:
    return re.fullmatch(r"`[{\[].*`", row) is not None


@pytest.mark.parametrize(("layout", "row", "becomes"), table(), ids=[layout for layout, _, _ in table()])
def test_what_the_guide_says_of_a_layout(tmp_path: Path, layout: str, row: str, becomes: str) -> None:
    found = list(read(written(tmp_path, layout, row)).tables[0].texts)
    if not is_json(row):
        negatives = FILES[layout][1]
        assert found == [texts[: 2 + negatives] for texts in pairs(3)]
        assert ("a negative" in becomes) == (negatives == 1)
        return
    counts = re.fullmatch(r"(\d+) pairs?, (\d+) negatives?", becomes)
    assert counts is not None, becomes
    assert [len(texts) - 2 for texts in found] == [int(counts[2])] * (2 * int(counts[1]))
    assert found[0][:2] == ("a", "t p" if "docid" in row else "p")


def test_the_table_has_every_layout(tmp_path: Path) -> None:
    """By the first line of a run, which names the layout. What is missing is there in another spelling."""
    seen: set[str] = set()
    for number, (layout, row, _) in enumerate(table()):
        folder = tmp_path / str(number)
        folder.mkdir()
        told = read(written(folder, layout, row)).told[0].layout
        seen |= {told[0].partition(" rows")[0]} if told else set()
    spelled_otherwise = {"judgement"} | {
        f"{query} and {positive}{labels}"
        for query in ("query", "question")
        for positive in ("positive", "answer")
        for labels in ("", " with labels")
        if (query, positive) != ("question", "answer")
    }
    assert {layout.name for layout in LAYOUTS} - seen == spelled_otherwise
