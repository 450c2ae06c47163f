"""The rows of one training source, in columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from train.config import Kind
from train.packed_texts import PackedTexts

T = TypeVar("T")
Texts = tuple[str, ...]
"""A row's texts: anchor, positive and negatives of a pair; both of a graded pair; the one of the other kinds."""


@dataclass(frozen=True)
class SourceTable:
    """`texts` of every row, and beside them what its kind has: a score, a label or perhaps a document's id."""

    kind: Kind
    texts: Sequence[Texts]
    scores: Sequence[float] = ()
    labels: Sequence[str] = ()
    ids: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def keep(self, rows: Sequence[int]) -> SourceTable:
        """Only these rows."""
        scores, labels, ids = _kept(self.scores, rows), _kept(self.labels, rows), _kept(self.ids, rows)
        texts = self.texts.take(rows) if isinstance(self.texts, PackedTexts) else _kept(self.texts, rows)
        return SourceTable(self.kind, texts, scores, labels, ids)

    def contents(self, normalize: Callable[[str], str] = str) -> Iterator[tuple[str, ...]]:
        """All that a row says, as strings; `normalize` is applied to its texts."""
        columns = [list(map(repr, self.scores)), self.labels, self.ids]
        extras = zip(*(column for column in columns if column), strict=True)
        return (tuple(map(normalize, texts)) + next(extras, ()) for texts in self.texts)

    def digests(self, normalize: Callable[[str], str] = str) -> Iterator[bytes]:
        """16 bytes a row, equal for equal rows."""
        return (hashlib.blake2b(encoded_row(row), digest_size=16).digest() for row in self.contents(normalize))


def _kept(column: Sequence[T], rows: Sequence[int]) -> list[T]:
    return [column[row] for row in rows] if column else []


def encoded_row(row: Sequence[str]) -> bytes:
    """Bytes that no other row has."""
    texts = [text.encode("utf-8", "surrogatepass") for text in row]
    return len(texts).to_bytes(8, "little") + b"".join(len(text).to_bytes(8, "little") + text for text in texts)
