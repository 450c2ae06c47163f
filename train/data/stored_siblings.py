"""The siblings of pairs that are larger than memory: sorted on the disk, and looked up there.

Most texts are in one row and have no siblings. So hashes show first which texts are in several rows, and only of these
the keys are made.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.data.prompted_input import text_keys
from train.data.shared_texts import shared_texts
from train.data.spill import Spill
from train.data.stored import BLOCK, StoredTexts
from train.data.table import SourceTable

Keys = NDArray[np.int64]
_STRIDE = 512
"""Of so many pairs of keys one is in memory."""
_PAIR = 16


class KeyIndex(Mapping[int, Keys]):
    """By each key on the left of the records that comes with several keys on the right, those keys in their order."""

    def __init__(self, records: Spill) -> None:
        descriptor, name = tempfile.mkstemp(prefix="dec2vec-")
        weakref.finalize(self, os.close, descriptor)
        Path(name).unlink()
        self._file = descriptor
        self._names = self._pairs = 0
        heads: list[int] = []
        for pairs in map(_several, records.parts()):
            heads += pairs[-self._pairs % _STRIDE :: _STRIDE, 0].tolist()
            os.pwrite(descriptor, pairs.tobytes(), self._pairs * _PAIR)
            self._pairs += len(pairs)
            self._names += len(np.unique(pairs[:, 0]))
        self._heads = heads

    def __len__(self) -> int:
        return self._names

    def __iter__(self) -> Iterator[int]:
        for start in range(0, self._pairs, BLOCK):
            names = self._read(start, start + BLOCK)[:, 0]
            before = self._read(start - 1, start)[:, 0] if start else names[:0]
            yield from np.setdiff1d(names, before).tolist()

    def __getitem__(self, name: int) -> Keys:
        first = max(bisect_left(self._heads, name) - 1, 0) * _STRIDE
        pairs = self._read(first, bisect_right(self._heads, name) * _STRIDE)
        found: Keys = pairs[pairs[:, 0] == name, 1]
        if not len(found):
            raise KeyError(name)
        return found

    def _read(self, start: int, stop: int) -> Keys:
        data = os.pread(self._file, (stop - start) * _PAIR, start * _PAIR)
        return np.frombuffer(data, dtype=np.int64).reshape(-1, 2)


def _several(records: Keys) -> Keys:
    """Of sorted records the different ones, of names that have several."""
    new = np.ones(len(records), dtype=bool)
    new[1:] = (records[1:] != records[:-1]).any(axis=1)
    records = records[new]
    _, places, counts = np.unique(records[:, 0], return_inverse=True, return_counts=True)
    found: Keys = records[counts[places] > 1]
    return found


def index_siblings(tables: Sequence[SourceTable], normalize: Callable[[str], str]) -> tuple[KeyIndex, KeyIndex]:
    """By the key of a query those of its answers, and the reverse. Texts are compared as the model reads them."""
    answers, askers = Spill(2), Spill(2)
    for table, several in zip(tables, _shared(tables, normalize), strict=True):
        wanted = iter(np.flatnonzero(several.any(axis=0)).tolist())
        while rows := list(islice(wanted, BLOCK)):
            texts = [table.texts[row] for row in rows]
            keys = np.stack([text_keys([normalize(row[side]) for row in texts]).numpy() for side in (0, 1)], axis=1)
            answers.add(keys[several[0, rows]])
            askers.add(keys[several[1, rows]][:, ::-1])
    return KeyIndex(answers), KeyIndex(askers)


def _shared(tables: Sequence[SourceTable], normalize: Callable[[str], str]) -> Iterator[NDArray[np.bool_]]:
    """For each table which anchors, and which positives, other rows may have too."""
    (*_, last) = tables
    if len(tables) == 1 and isinstance(last.texts, StoredTexts) and last.texts.rows.shared is not None:
        yield last.texts.rows.shared
        return
    flags = shared_texts(tables, normalize)
    edges = np.cumsum([0, *map(len, tables)]).tolist()
    yield from (flags[:, start:stop] for start, stop in pairwise(edges))
