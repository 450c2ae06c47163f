"""Rows of a source on the disk, read a row or a block at a time: a table of any length in the same little memory.

`rows.bin` has the bytes of every row as `encoded_row` writes them, so that its sha256 is the content hash of the rows;
`starts.bin` has the place of each row and the end of the last. The files are read and not mapped into memory: pages of
a mapping that were read once would count as memory of the process.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from array import array
from ast import literal_eval
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from dec2vec.errors import UserError
from dec2vec.files.atomic import why_not_written
from train.data.table import Row, SourceTable, encoded_row
from train.options.data import Kind

T = TypeVar("T")
BLOCK = 8192
"""Number of rows that are in memory together where all rows are read."""
_CHUNK = 1 << 20
_WORD = 8
_STARTS, _ROWS = "starts.bin", "rows.bin"


class StoredRows:
    """The rows that a `RowWriter` has written into a folder. They stay readable when the folder is removed."""

    sha256: str | None = None
    """The content hash, if it is known."""
    with_further: int | None = None
    """How many rows have hard negatives, if it is known."""
    _shared: NDArray[np.uint8] | None = None

    def __init__(self, folder: Path) -> None:
        self._starts = _open(folder / _STARTS, self)
        self._rows = _open(folder / _ROWS, self)
        self._count = os.fstat(self._starts).st_size // _WORD - 1
        self._size = os.fstat(self._rows).st_size

    def __len__(self) -> int:
        return self._count

    @property
    def shared(self) -> NDArray[np.bool_] | None:
        """Of pairs, two flags a row: whether another row may have the same anchor, and the same positive. None if it is
        not known."""
        flags = self._shared
        return None if flags is None else np.unpackbits(flags, axis=1, count=self._count).astype(bool)

    def note_shared(self, flags: NDArray[np.bool_]) -> None:
        """Remember which rows have an anchor, and which a positive, that others may have."""
        self._shared = np.packbits(flags, axis=1)

    def __getitem__(self, row: int) -> Row:
        place = range(self._count)[row]
        first, stop = self._edges(place, place + 1).tolist()
        return decoded(os.pread(self._rows, stop - first, first))

    def __iter__(self) -> Iterator[Row]:
        for data, starts in self.blocks():
            yield from (decoded(data, start) for start in starts[:-1].tolist())

    def blocks(self) -> Iterator[tuple[bytes, NDArray[np.int64]]]:
        """All rows in blocks: the bytes of each, and where its rows start in them, with the end of the last."""
        for start in range(0, self._count, BLOCK):
            edges = self._edges(start, min(start + BLOCK, self._count))
            yield os.pread(self._rows, int(edges[-1] - edges[0]), int(edges[0])), edges - edges[0]

    def encoded(self) -> Iterator[bytes]:
        """The bytes of all rows."""
        for start in range(0, self._size, _CHUNK):
            yield os.pread(self._rows, _CHUNK, start)

    def without(self, unwanted: NDArray[np.int64]) -> StoredRows:
        """The other rows, in a temporary copy."""
        gone = np.zeros(self._count, dtype=bool)
        gone[unwanted] = True
        start = 0
        with tempfile.TemporaryDirectory(prefix="dec2vec-") as folder:
            with closing(RowWriter(Path(folder))) as writer:
                for data, starts in self.blocks():
                    kept = np.flatnonzero(~gone[start : start + len(starts) - 1])
                    pieces = [data[i:j] for i, j in zip(starts[kept].tolist(), starts[kept + 1].tolist(), strict=True)]
                    writer.extend_encoded(b"".join(pieces), starts[kept + 1] - starts[kept])
                    start += len(starts) - 1
            found = StoredRows(Path(folder))
        if (shared := self.shared) is not None:
            found.note_shared(shared[:, ~gone])
        return found

    def _edges(self, start: int, stop: int) -> NDArray[np.int64]:
        found = os.pread(self._starts, (stop + 1 - start) * _WORD, start * _WORD)
        return np.frombuffer(found, dtype="<i8")


def _open(path: Path, owner: object) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    weakref.finalize(owner, os.close, descriptor)
    return descriptor


def decoded(data: bytes, at: int = 0) -> Row:
    """The row whose bytes begin there."""
    count = int.from_bytes(data[at : at + _WORD], "little")
    at += _WORD
    found = []
    for _ in range(count):
        stop = at + _WORD + int.from_bytes(data[at : at + _WORD], "little")
        found.append(str(data[at + _WORD : stop], "utf-8", "surrogatepass"))
        at = stop
    return tuple(found)


Spans = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Where texts begin in the bytes of a block, and where they end."""


def text_spans(data: bytes, starts: NDArray[np.int64]) -> tuple[Spans, Spans]:
    """The first text of each row of a block, and the second; of rows with at least two."""
    view = np.frombuffer(data, dtype=np.uint8)
    first = starts[:-1] + 2 * _WORD
    first_stop = first + _words(view, first - _WORD)
    second = first_stop + _WORD
    return (first, first_stop), (second, second + _words(view, first_stop))


def cut(data: bytes, spans: Spans) -> list[bytes]:
    """These texts."""
    return [data[start:stop] for start, stop in zip(spans[0].tolist(), spans[1].tolist(), strict=True)]


def _words(view: NDArray[np.uint8], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers whose eight bytes begin at these places."""
    found: NDArray[np.int64] = view[places[:, None] + np.arange(_WORD)].view("<i8").reshape(-1)
    return found


class StoredTexts(Sequence[Row]):
    """The texts of stored rows, which have `extras` further strings after them."""

    def __init__(self, rows: StoredRows, extras: int = 0) -> None:
        self.rows, self._extras = rows, extras

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return (row[: len(row) - self._extras] for row in self.rows)

    @overload
    def __getitem__(self, row: int) -> Row: ...

    @overload
    def __getitem__(self, row: slice) -> list[Row]: ...

    def __getitem__(self, row: int | slice) -> Row | list[Row]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        found = self.rows[row]
        return found[: len(found) - self._extras]

    def changed(self, row: int, normalize: Callable[[str], str]) -> Row:
        """All strings of a row, with `normalize` applied to its texts."""
        found = self.rows[row]
        texts = len(found) - self._extras
        return (*map(normalize, found[:texts]), *found[texts:])

    def sample(self, most: int) -> list[Row]:
        """All rows if there are no more than `most`, and otherwise as many at even distances."""
        places = self.places(most)
        return list(self) if len(places) == len(self) else [self[place] for place in places]

    def places(self, most: int) -> list[int]:
        """The numbers of these rows."""
        found: list[int] = np.unique(np.linspace(0, len(self) - 1, min(most, len(self)), dtype=np.int64)).tolist()
        return found


class StoredColumn(Sequence[T]):
    """A column of stored rows besides their texts: what `convert` makes of one of the last strings of each."""

    def __init__(self, rows: StoredRows, place: int, convert: Callable[[str], T]) -> None:
        self._rows, self._place, self._convert = rows, place, convert

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[T]:
        return (self._convert(row[self._place]) for row in self._rows)

    @overload
    def __getitem__(self, row: int) -> T: ...

    @overload
    def __getitem__(self, row: slice) -> list[T]: ...

    def __getitem__(self, row: int | slice) -> T | list[T]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        return self._convert(self._rows[row][self._place])


def _numbers(text: str) -> tuple[float, ...]:
    """`literal_eval` does not know nan."""
    return tuple(float(part) for part in text.strip("()").split(",") if part.strip())


_CONVERT: dict[str, Callable[[str], Any]] = {
    "scores": float,
    "labels": str,
    "ids": str,
    "document_scores": _numbers,
    "instructions": literal_eval,
}


def stored_table(kind: Kind, rows: StoredRows, named: Sequence[str] = ()) -> SourceTable:
    """A table of stored rows, which have these columns besides their texts, in the order of `COLUMNS`."""
    columns = {name: StoredColumn(rows, place - len(named), _CONVERT[name]) for place, name in enumerate(named)}
    return SourceTable(kind, StoredTexts(rows, len(named)), **columns)


def encoded_rows(table: SourceTable) -> Iterator[bytes]:
    """The bytes of all rows of any table, in pieces."""
    if isinstance(table.texts, StoredTexts):
        return table.texts.rows.encoded()
    return map(encoded_row, table.contents())


class RowWriter:
    """Writes rows into a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with ExitStack() as stack:
            self._rows = stack.enter_context((folder / _ROWS).open("wb"))
            self._starts = stack.enter_context((folder / _STARTS).open("wb"))
            self._open = stack.pop_all()
        self.start_anew()

    def start_anew(self) -> None:
        """Drop all rows."""
        for file in (self._rows, self._starts):
            file.seek(0)
            file.truncate()
        self._size = 0
        self._widths: Counter[int] = Counter()
        self._digest = hashlib.sha256()
        self._starts.write(bytes(_WORD))

    @property
    def sha256(self) -> str:
        """The content hash of the rows."""
        return self._digest.hexdigest()

    def extend(self, rows: Iterable[Sequence[str]]) -> None:
        """Append rows."""
        pieces = [encoded_row(row) for row in rows]
        self.extend_encoded(b"".join(pieces), np.array(array("q", map(len, pieces)), dtype=np.int64))

    def extend_encoded(self, data: bytes | memoryview, lengths: NDArray[np.int64]) -> None:
        """Append rows of which the bytes are known, and the number of bytes of each."""
        try:
            self._rows.write(data)
            self._starts.write((self._size + np.cumsum(lengths)).astype("<i8").tobytes())
        except OSError as error:
            why = why_not_written(error, "place (HF_DATASETS_CACHE, TMPDIR)")
            raise UserError(f"training texts cannot be stored in {self._folder.parent}: {why}") from error
        self._digest.update(data)
        widths = _words(np.frombuffer(data, dtype=np.uint8), np.cumsum(lengths) - lengths)
        self._widths.update(dict(zip(*(part.tolist() for part in np.unique(widths, return_counts=True)), strict=True)))
        self._size += int(lengths.sum())

    def copy(self, rows: StoredRows) -> None:
        """Append all of these rows."""
        for data, starts in rows.blocks():
            self.extend_encoded(data, np.diff(starts))

    def with_more_than(self, strings: int) -> int:
        """How many rows have more strings."""
        return sum(count for width, count in self._widths.items() if width > strings)

    def flush(self) -> None:
        """Make the rows readable that were appended."""
        self._rows.flush()
        self._starts.flush()

    def close(self) -> None:
        """Finish the files."""
        self._open.close()
