"""The rows of one training source, in columns."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from dec2vec.errors import UserError
from dec2vec.files.atomic import why_not_written
from train.options.data import Kind

T = TypeVar("T")
Texts = tuple[str, ...]
"""The texts of a row: anchor, positive and negatives of a pair; both texts of a graded pair; otherwise one text."""


@dataclass(frozen=True)
class SourceTable:
    """The texts of every row, and depending on the kind their scores, labels or document ids.

    Pairs may also have the scores that a reranker gave the positive and the negatives (NaN: none), and instructions of
    the query and of the documents.
    """

    kind: Kind
    texts: Sequence[Texts]
    scores: Sequence[float] = ()
    labels: Sequence[str] = ()
    ids: Sequence[str] = ()
    document_scores: Sequence[tuple[float, ...]] = ()
    instructions: Sequence[tuple[str, str]] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def keep(self, rows: Sequence[int]) -> SourceTable:
        """The table with only these rows."""
        scores, labels, ids = _kept(self.scores, rows), _kept(self.labels, rows), _kept(self.ids, rows)
        texts = self.texts.take(rows) if isinstance(self.texts, PackedTexts) else _kept(self.texts, rows)
        extras = _kept(self.document_scores, rows), _kept(self.instructions, rows)
        return SourceTable(self.kind, texts, scores, labels, ids, *extras)

    def contents(self, normalize: Callable[[str], str] = str) -> Iterator[tuple[str, ...]]:
        """Everything in each row as strings, with `normalize` applied to the texts."""
        columns: list[Sequence[str]] = [list(map(repr, self.scores)), self.labels, self.ids]
        columns += [list(map(repr, self.document_scores)), list(map(repr, self.instructions))]
        extras = zip(*(column for column in columns if column), strict=True)
        return (tuple(map(normalize, texts)) + next(extras, ()) for texts in self.texts)

    def digests(self, normalize: Callable[[str], str] = str) -> Iterator[bytes]:
        """16 bytes per row, which are equal for equal rows."""
        return (hashlib.blake2b(encoded_row(row), digest_size=16).digest() for row in self.contents(normalize))


def _kept(column: Sequence[T], rows: Sequence[int]) -> list[T]:
    return [column[row] for row in rows] if column else []


def encoded_row(row: Sequence[str]) -> bytes:
    """Bytes that differ for different rows."""
    texts = [text.encode("utf-8", "surrogatepass") for text in row]
    return len(texts).to_bytes(8, "little") + b"".join(len(text).to_bytes(8, "little") + text for text in texts)


SPILL = 64 << 20
"""Maximum number of bytes of text that stay in memory."""
_CODE = ("utf-8", "surrogatepass")
Row = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PackedTexts(Sequence[Row]):
    """Row i has the texts from `starts[i]` to `starts[i + 1]`; text j has the bytes from `edges[j]` to `edges[j + 1]`.

    `order` picks rows of these, all of them where it is None.
    """

    data: bytes | mmap.mmap
    edges: NDArray[np.int64]
    starts: NDArray[np.int64]
    order: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1 if self.order is None else len(self.order)

    @overload
    def __getitem__(self, row: int) -> Row: ...

    @overload
    def __getitem__(self, row: slice) -> PackedTexts: ...

    def __getitem__(self, row: int | slice) -> Row | PackedTexts:
        if isinstance(row, slice):
            return self.take(range(*row.indices(len(self))))
        place = range(len(self))[row] if self.order is None else int(self.order[row])
        edges = self.edges[self.starts[place] : self.starts[place + 1] + 1].tolist()
        return tuple(str(self.data[start:stop], *_CODE) for start, stop in pairwise(edges))

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(tuple.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # unhashable, like a list

    def take(self, rows: Sequence[int]) -> PackedTexts:
        """These rows in this order. No text is copied."""
        picked = np.array(rows, dtype=np.int64)
        return PackedTexts(self.data, self.edges, self.starts, picked if self.order is None else self.order[picked])


def _no_room(error: OSError) -> UserError:
    place = tempfile.gettempdir()
    return UserError(f"training texts cannot be stored in {place}: {why_not_written(error, 'TMPDIR')}")


@dataclass(eq=False)
class Packer:
    """Packs rows while they are read, with at most `SPILL` bytes of text in memory."""

    edges: array[int] = field(default_factory=lambda: array("q", [0]))
    starts: array[int] = field(default_factory=lambda: array("q", [0]))

    def __post_init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=SPILL)  # noqa: SIM115  # it outlives every block

    def extend(self, rows: Iterable[Row]) -> None:
        """Append rows; UserError if the temporary folder has no room for them."""
        try:
            for texts in rows:
                for text in texts:
                    self.edges.append(self.edges[-1] + self._file.write(text.encode(*_CODE)))
                self.starts.append(len(self.edges) - 1)
        except OSError as error:
            raise _no_room(error) from error

    def done(self) -> PackedTexts:
        """All rows. The packer cannot be used afterwards."""
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from error
        size = self.edges[-1]
        if size > SPILL:
            data: bytes | mmap.mmap = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ)
        else:
            self._file.seek(0)
            data = self._file.read()
        self.close()
        return PackedTexts(data, np.frombuffer(self.edges, np.int64), np.frombuffer(self.starts, np.int64))

    def close(self) -> None:
        """Close the temporary file. A mapping of it stays valid."""
        self._file.close()
