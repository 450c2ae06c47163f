"""Packed rows are the rows that were put in, in memory and on disk, and take far less room than Python's strings."""

from __future__ import annotations

import json
import mmap
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dec2vec.errors import UserError
from dec2vec.files import tables as readers
from tests.helpers import word_pairs, write_jsonl
from train.data import table as packed_texts
from train.data.dataset import load_data
from train.data.table import PackedTexts, Packer
from train.options.data import SourceConfig

ROWS = [("naïve café", "東京 😀"), ("", "\ud800 alone", "a\nb"), ("x",)]


def packed(rows: list[tuple[str, ...]]) -> PackedTexts:
    packer = Packer()
    packer.extend(rows[:1])
    packer.extend(rows[1:])
    return packer.done()


@given(st.lists(st.lists(st.text(st.characters())).map(tuple)), st.data())
def test_rows_come_back(rows: list[tuple[str, ...]], data: st.DataObject) -> None:
    found = packed(rows)
    assert list(found) == rows and found == rows and len(found) == len(rows)
    picked = data.draw(st.lists(st.sampled_from(range(len(rows)))) if rows else st.just([]))
    assert list(found.take(picked)) == [rows[row] for row in picked]
    assert list(found.take(picked).take(range(len(picked))[::-1])) == [rows[row] for row in reversed(picked)]
    assert list(found[1:3]) == rows[1:3]


def test_many_texts_are_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_texts, "SPILL", 8)
    found = packed(ROWS)
    assert isinstance(found.data, mmap.mmap)
    assert list(found) == ROWS and found[-1] == ROWS[-1] and found != ROWS[:2]
    with pytest.raises(IndexError):
        found[3]


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    packer = Packer()

    def full(_: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packer._file, "write", full)
    with pytest.raises(UserError, match=r"training texts cannot be stored in .*choose another TMPDIR"):
        packer.extend(ROWS)
    packer.close()


def test_a_file_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their size: the same rows, negatives that only some blocks have, the same hash."""
    path = write_jsonl(tmp_path / "pairs.jsonl", word_pairs(25))
    whole = load_data([SourceConfig(path=str(path), clean=True)])
    monkeypatch.setattr(readers, "BLOCK", 2)
    blocks = load_data([SourceConfig(path=str(path), clean=True)])
    assert list(blocks.tables[0].texts) == list(whole.tables[0].texts)
    assert blocks.content_hash == whole.content_hash
    named = load_data([SourceConfig(path=str(path), negatives=("negative",))])
    assert named.content_hash == whole.content_hash
    with pytest.raises(UserError, match=r"no column 'negativ'; the columns are: anchor, positive, negative"):
        load_data([SourceConfig(path=str(path), negatives=("negativ",))])
    with pytest.raises(UserError, match=r"line 27: no 'positive'; this row has: anchor"):
        path.write_text(path.read_text() + '{"anchor": "a", "positive": "b"}\n{"anchor": "a"}\n')
        load_data([SourceConfig(path=str(path))])


def test_numbers_in_some_blocks_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "BLOCK", 2)
    rows: list[dict[str, object]] = [{"anchor": f"a{i}", "positive": str(i)} for i in range(4)]
    with pytest.raises(UserError, match=r"column 'positive' contains only numbers"):
        load_data([SourceConfig(path=str(write_jsonl(tmp_path / "a.jsonl", rows)))])
    rows.append({"anchor": "b", "positive": "words"})
    assert len(load_data([SourceConfig(path=str(write_jsonl(tmp_path / "a.jsonl", rows)))])) == 5


def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """8,000 pairs: what Python allocates at the height of reading, against the rows as a list of dictionaries."""
    monkeypatch.setattr(readers, "BLOCK", 512)
    monkeypatch.setattr(packed_texts, "SPILL", 1 << 16)
    rows = [{"anchor": f"a question {i}", "positive": f"its answer {i}"} for i in range(8_000)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = sum(sys.getsizeof(row) + sum(map(sys.getsizeof, row.values())) for row in rows)
    load_data([SourceConfig(path=str(path), limit=9)])  # whatever is loaded or kept at the first call
    tracemalloc.start()
    try:
        data = load_data([SourceConfig(path=str(path))])
        now, height = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(data) == 8_000
    assert now < plain / 4 and height < plain
