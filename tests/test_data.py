"""Training pairs: which rows become pairs, and which data are refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dec2vec.errors import UserError
from train.config import SourceConfig
from train.data import PairTable, load_pairs

PAIRS: list[dict[str, object]] = [
    {"anchor": "a0", "positive": "p0"},
    {"anchor": "a1", "positive": "p1", "negative": "n1"},
    {"anchor": "a2", "positive": "p2", "negative_10": "n2.10", "negative_2": "n2.2", "negative": None},
    {"anchor": "a3", "positive": "p3", "negative": "", "negative_1": "n3.1"},
]


def jsonl(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def complaint(*sources: SourceConfig) -> str:
    with pytest.raises(UserError) as caught:
        load_pairs(sources)
    return str(caught.value)


def test_pairs_and_negatives_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    table = load_pairs([SourceConfig(jsonl(tmp_path / "t.jsonl", PAIRS))])
    assert len(table) == 4
    assert table.anchors == ["a0", "a1", "a2", "a3"]
    assert table.positives == ["p0", "p1", "p2", "p3"]
    assert table.negatives == [(), ("n1",), ("n2.2", "n2.10"), ("n3.1",)]


def test_mapped_columns_limit_and_several_sources(tmp_path: Path) -> None:
    first = SourceConfig(jsonl(tmp_path / "t.jsonl", PAIRS), negatives=(), limit=2)
    rows: list[dict[str, object]] = [{"q": "q0", "d": "d0", "hard": "h0", "negative": "no"}]
    second = SourceConfig(jsonl(tmp_path / "u.jsonl", rows), anchor="q", positive="d", negatives=("hard",))
    table = load_pairs([first, second])
    assert table == PairTable(["a0", "a1", "q0"], ["p0", "p1", "d0"], [(), (), ("h0",)], sizes=(2, 1))


def test_csv_rows_without_a_negative(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("anchor,positive,negative\na,b,c\nd,e,\n", encoding="utf-8")
    assert load_pairs([SourceConfig(str(path))]).negatives == [("c",), ()]


def test_content_hash_follows_the_texts_and_not_the_file(tmp_path: Path) -> None:
    pairs = jsonl(tmp_path / "t.jsonl", PAIRS[:2])
    copy = jsonl(tmp_path / "u.jsonl", [{**row, "source": "elsewhere"} for row in PAIRS[:2]])
    swapped = jsonl(tmp_path / "v.jsonl", PAIRS[1::-1])
    hashes = [load_pairs([SourceConfig(path)]).content_hash for path in (pairs, copy, swapped)]
    assert hashes[0] == hashes[1] != hashes[2] and len(hashes[0]) == 64
    assert PairTable(["ab"], ["c"], [()]).content_hash != PairTable(["a"], ["bc"], [()]).content_hash
    assert PairTable(["\ud800"], ["c"], [()]).content_hash


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (PAIRS[:1], "t.jsonl: 1 pair; contrastive training needs at least two"),
        ([], "t.jsonl is empty"),
        ([{"anchor": "a", "positive": "b"}] * 3, "t.jsonl: all anchors are equal ('a')"),
        ([{"anchor": str(i) + "x", "positive": "b"} for i in range(3)], "all positives are equal ('b')"),
        ([{"query": "a", "positive": "b"}], "no column 'anchor'; the columns are: query, positive"),
        ([*PAIRS, {"anchor": None, "positive": "b"}], "t.jsonl line 5: anchor is null"),
        ([*PAIRS, {"anchor": "a", "positive": " "}], "t.jsonl line 5: positive is blank"),
        ([*PAIRS, {"anchor": "a", "positive": 4}], "t.jsonl line 5: positive is a number (4), not text"),
        ([*PAIRS, {"anchor": "a", "positive": "b", "negative": 4}], "line 5: negative is a number (4)"),
        ([*PAIRS, {"anchor": "a", "positive": "b", "negative_1": " "}], "line 5: negative_1 is blank"),
        ([{"anchor": "1", "positive": "b"}, {"anchor": "2", "positive": "c"}], "'anchor' holds only numbers"),
    ],
)
def test_what_is_refused(tmp_path: Path, rows: list[dict[str, object]], words: str) -> None:
    assert words in complaint(SourceConfig(jsonl(tmp_path / "t.jsonl", rows)))


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    assert "no training pairs; name a file with --data.0.path" in complaint()
    assert "a source has no path" in complaint(SourceConfig())
    assert "no.jsonl does not exist" in complaint(SourceConfig(str(tmp_path / "no.jsonl")))
    path = jsonl(tmp_path / "t.jsonl", PAIRS)
    assert "no column 'hard'; the columns are: anchor, positive, negative" in complaint(
        SourceConfig(path, negatives=("hard",))
    )
