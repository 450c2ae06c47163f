"""Training pairs as three parallel columns in memory, checked before any model is loaded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from dec2vec.errors import UserError
from dec2vec.readers import Table, read_table
from train.config import SourceConfig

_NEGATIVE_COLUMN = re.compile(r"negative(?:_(\d+))?")


@dataclass(frozen=True)
class PairTable:
    """Row i: anchors[i] matches positives[i]; negatives[i] are its hard negatives, perhaps none."""

    anchors: list[str]
    positives: list[str]
    negatives: list[tuple[str, ...]]
    sizes: tuple[int, ...] = ()
    """Rows of each source, in order; () where sources are not told apart."""

    def __len__(self) -> int:
        return len(self.anchors)

    @cached_property
    def content_hash(self) -> str:
        """sha256 of every text in order: the same hash means the same data, wherever it was read from."""
        digest = hashlib.sha256()
        for anchor, positive, negatives in zip(self.anchors, self.positives, self.negatives, strict=True):
            row = [text.encode("utf-8", "surrogatepass") for text in (anchor, positive, *negatives)]
            digest.update(len(row).to_bytes(8, "little"))
            for text in row:
                digest.update(len(text).to_bytes(8, "little") + text)
        return digest.hexdigest()


def load_pairs(sources: Sequence[SourceConfig]) -> PairTable:
    """The pairs of all sources in order; data that nothing can be learned from is refused."""
    if not sources:
        raise UserError("config error: data: no training pairs; name a file with --data.0.path pairs.jsonl")
    parts = [_read_source(source) for source in sources]
    table = PairTable(
        anchors=[text for part in parts for text in part.anchors],
        positives=[text for part in parts for text in part.positives],
        negatives=[texts for part in parts for texts in part.negatives],
        sizes=tuple(map(len, parts)),
    )
    _refuse_hopeless(table, ", ".join(source.path for source in sources))
    return table


def _read_source(source: SourceConfig) -> PairTable:
    if not source.path:
        raise UserError("config error: data: a source has no path; name a file, a folder or a Hub id")
    columns = [source.anchor, source.positive]
    table = read_table(source.path, columns, split=source.split, only=source.only, limit=source.limit)
    negatives = _negative_columns(table, source.negatives)
    return PairTable(
        anchors=table.texts(source.anchor),
        positives=table.texts(source.positive),
        negatives=[tuple(_present(table, i, negatives)) for i in range(len(table))],
    )


def _negative_columns(table: Table, wanted: Sequence[str] | None) -> list[str]:
    """The named columns, or `negative`, `negative_1`, `negative_2` ... in the order of their numbers."""
    present = table.columns
    if wanted is not None:
        absent = next((column for column in wanted if column not in present), None)
        if absent is not None:
            raise UserError(f"{table.name}: no column {absent!r}; the columns are: {', '.join(present)}")
        return list(wanted)
    matches = [match for match in map(_NEGATIVE_COLUMN.fullmatch, present) if match]
    return [match.group() for match in sorted(matches, key=lambda match: int(match.group(1) or -1))]


def _present(table: Table, index: int, columns: Sequence[str]) -> Iterator[str]:
    """The row's negatives: an absent, null or empty one is simply not there."""
    for column in columns:
        if table.rows[index].get(column) not in (None, ""):
            yield table.text(index, column)


def _refuse_hopeless(table: PairTable, names: str) -> None:
    if len(table) < 2:
        raise UserError(f"{names}: {len(table)} pair; contrastive training needs at least two")
    for side, texts in (("anchors", table.anchors), ("positives", table.positives)):
        if all(text == texts[0] for text in texts):
            raise UserError(f"{names}: all {side} are equal ({texts[0][:40]!r}); nothing is left to tell apart")
