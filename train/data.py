"""Training data: the sources' rows, packed and checked before any model is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from dec2vec.errors import UserError
from dec2vec.prompts import NORMALIZERS, TextNormalization
from train.cleaning import Counts, clean
from train.config import SourceConfig
from train.rows_of_file import read_source
from train.sampler import Indices
from train.table import SourceTable, encoded_row


@dataclass(frozen=True)
class TrainingData:
    """Tables of all sources. A row's number goes through them in order."""

    sources: tuple[SourceConfig, ...]
    tables: tuple[SourceTable, ...]
    counts: tuple[Counts, ...]

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each source."""
        return tuple(map(len, self.tables))

    @cached_property
    def content_hash(self) -> str:
        """sha256 of every row in order: the same hash means the same data, wherever it was read from."""
        return content_hash(self.tables)

    def place(self, row: int) -> tuple[int, int]:
        """The source of a row, and its number in there."""
        source = int(np.searchsorted(self._ends, row, side="right"))
        return source, row - int(self._ends[source]) + len(self.tables[source])

    @cached_property
    def _ends(self) -> Indices:
        return np.cumsum(self.sizes)


def content_hash(tables: Sequence[SourceTable]) -> str:
    """sha256 of every row in order."""
    digest = hashlib.sha256()
    for table in tables:
        for row in table.contents():
            digest.update(encoded_row(row))
    return digest.hexdigest()


def load_data(sources: Sequence[SourceConfig], *, normalization: TextNormalization = "none") -> TrainingData:
    """The rows of all sources in order; data that nothing can be learned from are refused.

    Texts are kept as they are; `normalization` is the model's, under which they may be equal.
    """
    if not sources:
        raise UserError("config error: data: no training pairs; name a file with --data.0.path pairs.jsonl")
    normalize = NORMALIZERS[normalization]
    found = [clean(*read_source(number, source), source, normalize) for number, source in enumerate(sources)]
    data = TrainingData(tuple(sources), tuple(table for table, _ in found), tuple(counts for _, counts in found))
    for names, tables in _refusable(data):
        _refuse_hopeless(names, tables)
    return data


def _refusable(data: TrainingData) -> Iterator[tuple[str, list[SourceTable]]]:
    """Pairs of all sources together, for they may share batches; any other source by itself."""
    pairs = [number for number, table in enumerate(data.tables) if table.kind == "pairs"]
    if pairs:
        names = ", ".join(data.sources[number].path for number in pairs)
        yield names, [data.tables[number] for number in pairs]
    for source, table in zip(data.sources, data.tables, strict=True):
        if table.kind != "pairs":
            yield source.path, [table]


def _refuse_hopeless(names: str, tables: Sequence[SourceTable]) -> None:
    """UserError for what holds nothing to tell apart. `tables` are of one kind."""
    rows, kind = sum(map(len, tables)), tables[0].kind
    if rows < 2:
        unit = "pair" if kind in ("pairs", "graded") else "text"
        raise UserError(f"{names}: {rows} {unit}; contrastive training needs at least two")
    columns = {"pairs": ("anchors", "positives"), "graded": ()}.get(kind, ("texts",))
    first = next(chain.from_iterable(table.texts for table in tables))
    for place, name in enumerate(columns):
        if all(texts[place] == first[place] for table in tables for texts in table.texts):
            raise UserError(f"{names}: all {name} are equal ({first[place][:40]!r}); nothing is left to tell apart")
    for name, values in (("scores", tables[0].scores), ("labels", tables[0].labels)):
        if values and all(value == values[0] for value in values):
            raise UserError(f"{names}: all {name} are equal ({values[0]!r}); nothing is left to tell apart")
