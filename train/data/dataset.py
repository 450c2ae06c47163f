"""Training data: the rows of all sources, packed, and checked before any model is loaded."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import NORMALIZERS, TextNormalization
from train.data.clean import Counts, clean, leave_out_lone
from train.data.read import Told, read_and_tell
from train.data.row_extras import NOTHING, Extras
from train.data.sampler import Indices
from train.data.stored import StoredTexts, encoded_rows
from train.data.stream import open_stream
from train.data.table import SourceTable
from train.options.data import SourceConfig


@dataclass(frozen=True)
class TrainingData:
    """The tables of all sources. Rows are numbered through all tables in order."""

    sources: tuple[SourceConfig, ...]
    tables: tuple[SourceTable, ...]
    counts: tuple[Counts, ...]
    told: tuple[Told, ...] = ()
    """What reading each source has shown."""
    held_out: str = ""
    """How many rows are held out for `eval.dev`, in words."""
    left_out: tuple[SourceTable, ...] = ()
    """Of each source the rows that are not trained on because of that. Their answers are known all the same."""

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of rows of each source."""
        return tuple(map(len, self.tables))

    @cached_property
    def content_hash(self) -> str:
        """sha256 of every row in order: the same hash means the same data, wherever it was read from."""
        return content_hash(self.tables)

    @cached_property
    def source_hashes(self) -> tuple[str, ...]:
        """The same of each source."""
        return tuple(content_hash([table]) for table in self.tables)

    def place(self, row: int) -> tuple[int, int]:
        """The source of a row, and the number of the row within that source."""
        source = int(np.searchsorted(self._ends, row, side="right"))
        return source, row - int(self._ends[source]) + len(self.tables[source])

    @cached_property
    def _ends(self) -> Indices:
        return np.cumsum(self.sizes)


def content_hash(tables: Sequence[SourceTable]) -> str:
    """sha256 of every row in order."""
    if len(tables) == 1 and isinstance(texts := tables[0].texts, StoredTexts) and texts.rows.sha256 is not None:
        return texts.rows.sha256
    digest = hashlib.sha256()
    for piece in chain.from_iterable(map(encoded_rows, tables)):
        digest.update(piece)
    return digest.hexdigest()


def load_data(
    sources: Sequence[SourceConfig],
    *,
    normalization: TextNormalization = "none",
    mixed: bool = True,
    extras: Sequence[Extras] = (),
) -> TrainingData:
    """The rows of all sources in order; UserError for data from which nothing can be learned.

    Texts are kept unchanged; `normalization` is that of the model, after which texts may be equal. With `mixed`
    batches, which hold rows of all sources, labels and scores are checked over all sources together. `extras` are what
    is used of each source besides its texts.
    """
    found: list[tuple[SourceTable, Counts]] = []
    told = []
    for number, (source, wanted) in enumerate(zip(sources, extras or [NOTHING] * len(sources), strict=True)):
        try:
            table, counted, news = _load(source, normalization, wanted)
        except UserError as error:
            raise type(error)(_numbered(str(error), number)) from error
        found.append((table, counted))
        unused = None if news.unused is None else _numbered(news.unused, number)
        told.append(Told(tuple(_numbered(line, number) for line in news.layout), unused))
    for group in _groups(sources, mixed):
        for number, cleaned in zip(group, leave_out_lone([found[number] for number in group]), strict=True):
            found[number] = cleaned
        _refuse_hopeless(", ".join(sources[number].path for number in group), [found[number][0] for number in group])
    tables, counts = tuple(table for table, _ in found), tuple(counts for _, counts in found)
    return TrainingData(tuple(sources), tables, counts, tuple(told))


def _numbered(message: str, number: int) -> str:
    """A message of what reads any source, with the number of this one in the names of its options."""
    return message.replace("data.N.", f"data.{number}.")


def _load(source: SourceConfig, normalization: TextNormalization, extras: Extras) -> tuple[SourceTable, Counts, Told]:
    if source.streaming:
        return open_stream(source, normalization, extras)
    table, empty, told = read_and_tell(source, extras)
    return *clean(table, empty, source, NORMALIZERS[normalization]), told


def _groups(sources: Sequence[SourceConfig], mixed: bool) -> list[list[int]]:
    """Numbers of the sources that are checked together: those of one kind that share batches, and always all pairs."""
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, source in enumerate(sources):
        groups[(source.kind,) if mixed or source.kind == "pairs" else (source.kind, number)].append(number)
    return list(groups.values())


def _refuse_hopeless(names: str, tables: Sequence[SourceTable]) -> None:
    """UserError if there is nothing to contrast. All tables are of one kind."""
    rows, kind = sum(map(len, tables)), tables[0].kind
    if rows < 2:
        unit = "pair" if kind in ("pairs", "graded") else "text"
        raise UserError(f"{names} has {rows} {unit}; contrastive training needs at least two")
    columns = {"pairs": ("anchors", "positives"), "graded": ()}.get(kind, ("texts",))
    first = next(chain.from_iterable(table.texts for table in tables))
    for place, name in enumerate(columns):
        if all(texts[place] == first[place] for table in tables for texts in table.texts):
            raise UserError(
                f"{names}: all {name} are equal ({first[place][:40]!r}); contrastive training needs different ones"
            )
    for name in ("scores", "labels"):
        columns_of_values = [values for table in tables if len(values := getattr(table, name))]
        if not columns_of_values:
            continue
        only = columns_of_values[0][0]
        if all(value == only for value in chain.from_iterable(columns_of_values)):
            raise UserError(f"{names}: all {name} are equal ({only!r}); contrastive training needs different ones")
