"""Training pairs: which rows become pairs, and which data are refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from dec2vec.errors import UserError
from train.data.dataset import content_hash, load_data
from train.data.table import SourceTable
from train.options.data import SourceConfig

PAIRS: list[dict[str, object]] = [
    {"anchor": "a0", "positive": "p0"},
    {"anchor": "a1", "positive": "p1", "negative": "n1"},
    {"anchor": "a2", "positive": "p2", "negative_10": "n2.10", "negative_2": "n2.2", "negative": None},
    {"anchor": "a3", "positive": "p3", "negative": "", "negative_1": "n3.1"},
]


def jsonl(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def hash_of(*texts: tuple[str, ...]) -> str:
    return content_hash([SourceTable("pairs", texts)])


def complaint(*sources: SourceConfig) -> str:
    with pytest.raises(UserError) as caught:
        load_data(sources)
    return str(caught.value)


def test_pairs_and_negatives_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    data = load_data([SourceConfig(jsonl(tmp_path / "t.jsonl", PAIRS))])
    assert len(data) == 4
    (table,) = data.tables
    assert table.texts == [("a0", "p0"), ("a1", "p1", "n1"), ("a2", "p2", "n2.2", "n2.10"), ("a3", "p3", "n3.1")]


def test_mapped_columns_limit_and_several_sources(tmp_path: Path) -> None:
    first = SourceConfig(jsonl(tmp_path / "t.jsonl", PAIRS), negatives=(), limit=2)
    rows: list[dict[str, object]] = [{"q": "q0", "d": "d0", "hard": "h0", "negative": "no"}]
    second = SourceConfig(jsonl(tmp_path / "u.jsonl", rows), anchor="q", positive="d", negatives=("hard",))
    data = load_data([first, second])
    assert data.sizes == (2, 1)
    assert [list(table.texts) for table in data.tables] == [[("a0", "p0"), ("a1", "p1")], [("q0", "d0", "h0")]]
    assert [data.place(row) for row in range(3)] == [(0, 0), (0, 1), (1, 0)]


def test_csv_rows_without_a_negative(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("anchor,positive,negative\na,b,c\nd,e,\n", encoding="utf-8")
    assert load_data([SourceConfig(str(path))]).tables[0].texts == [("a", "b", "c"), ("d", "e")]


def test_content_hash_follows_the_texts_and_not_the_file(tmp_path: Path) -> None:
    pairs = jsonl(tmp_path / "t.jsonl", PAIRS[:2])
    copy = jsonl(tmp_path / "u.jsonl", [{**row, "source": "elsewhere"} for row in PAIRS[:2]])
    swapped = jsonl(tmp_path / "v.jsonl", PAIRS[1::-1])
    hashes = [load_data([SourceConfig(path)]).content_hash for path in (pairs, copy, swapped)]
    assert hashes[0] == hashes[1] != hashes[2] and len(hashes[0]) == 64
    assert hash_of(("ab", "c")) != hash_of(("a", "bc"))
    assert hash_of(("\ud800", "c"))


def test_content_hash_is_pinned() -> None:
    """A checkpoint is resumed, and a model card believed, by this hash."""
    assert hash_of(("a", "b"), ("c", "d", "e")).startswith("7a8d1d4f44a1b06b")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (PAIRS[:1], "t.jsonl has 1 pair; contrastive training needs at least two"),
        ([], "t.jsonl is empty"),
        ([{"anchor": "a", "positive": "b"}] * 3, "t.jsonl: all anchors are equal ('a')"),
        ([{"anchor": str(i) + "x", "positive": "b"} for i in range(3)], "all positives are equal ('b')"),
        ([{"q": "a", "d": "b"}], "no column 'anchor'; the columns are: q, d; no known layout fits; name the columns"),
        ([*PAIRS, {"anchor": None, "positive": "b"}], "t.jsonl line 5: anchor is null"),
        ([*PAIRS, {"anchor": "a", "positive": " "}], "t.jsonl line 5: positive is blank"),
        ([*PAIRS, {"anchor": "a", "positive": 4}], "t.jsonl line 5: positive is a number (4), not text"),
        ([*PAIRS, {"anchor": "a", "positive": "b", "negative": 4}], "line 5: negative is a number (4)"),
        ([*PAIRS, {"anchor": "a", "positive": "b", "negative_1": " "}], "line 5: negative_1 is blank"),
        ([{"anchor": "1", "positive": "b"}, {"anchor": "2", "positive": "c"}], "'anchor' contains only numbers"),
    ],
)
def test_what_is_refused(tmp_path: Path, rows: list[dict[str, object]], words: str) -> None:
    assert words in complaint(SourceConfig(jsonl(tmp_path / "t.jsonl", rows)))


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    assert "no.jsonl does not exist" in complaint(SourceConfig(str(tmp_path / "no.jsonl")))
    path = jsonl(tmp_path / "t.jsonl", PAIRS)
    assert "no column 'hard'; the columns are: anchor, positive, negative" in complaint(
        SourceConfig(path, negatives=("hard",))
    )


def test_a_streamed_hub_source_has_the_rows_of_a_stored_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    jsonl(folder / "train.jsonl", PAIRS)
    real = datasets.load_dataset

    def load_dataset(name: str, subset: str | None, *, split: str, streaming: bool) -> object:
        return real("json", data_dir=str(folder), split=split, streaming=streaming, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    stored, streamed = (load_data([SourceConfig("some/set", streaming=way)]) for way in (False, True))
    assert (
        stored.content_hash
        == streamed.content_hash
        == load_data([SourceConfig(str(folder / "train.jsonl"))]).content_hash
    )
    assert len(load_data([SourceConfig("some/set", streaming=True, limit=2)])) == 2
