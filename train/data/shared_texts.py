"""Which rows have a text that other rows have too, found by hashes in little memory.

Different texts may have one hash, so that what is found here has to be looked at again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from train.data.spill import Records, Spill
from train.data.stored import BLOCK, StoredTexts, cut, text_spans
from train.data.table import SourceTable


def shared_texts(tables: Sequence[SourceTable], normalize: Callable[[str], str]) -> NDArray[np.bool_]:
    """Two flags a row, through all tables: whether another row has the same anchor, and the same positive."""
    return repeated(_hashes(tables, normalize), sum(map(len, tables)))


def _hashes(tables: Sequence[SourceTable], normalize: Callable[[str], str]) -> Iterator[Records]:
    """The hashes of anchors and positives, a block of rows at a time."""
    as_bytes = normalize is str and all(isinstance(table.texts, StoredTexts) for table in tables)
    for table in tables:
        if as_bytes and isinstance(table.texts, StoredTexts):
            for data, starts in table.texts.rows.blocks():
                yield np.stack([hashes(cut(data, spans)) for spans in text_spans(data, starts)], axis=1)
        else:
            texts = ((normalize(row[0]), normalize(row[1])) for row in table.texts)
            while rows := list(islice(texts, BLOCK)):
                yield np.stack([hashes(side) for side in zip(*rows, strict=True)], axis=1)


def hashes(values: Sequence[bytes] | Sequence[str]) -> Records:
    """Python's hashes, which differ between processes: only good for finding what may be equal."""
    return np.fromiter(map(hash, values), dtype=np.int64, count=len(values))


def repeated(blocks: Iterable[Records], count: int) -> NDArray[np.bool_]:
    """Whether another row has the same hash in the same column: a row of flags for each column.

    The blocks have the hashes of consecutive rows, `count` in all.
    """
    spills: list[Spill] = []
    start = 0
    for block in blocks:
        spills = spills or [Spill(2) for _ in block.T]
        rows = np.arange(start, start + len(block))
        for spill, column in zip(spills, block.T, strict=True):
            spill.add(np.stack([column, rows], axis=1))
        start += len(block)
    found = np.zeros((max(len(spills), 1), count), dtype=bool)
    for flags, spill in zip(found, spills, strict=False):
        for part in spill.parts():
            equal = part[1:, 0] == part[:-1, 0]
            flags[part[1:, 1][equal]] = True
            flags[part[:-1, 1][equal]] = True
    return found
