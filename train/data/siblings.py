"""Right answers that a batch cannot show: those of a query in other rows, and the other queries of an answer.

A query with several positives has a row for each. If two of these rows meet in a batch, the anchors' equal keys keep
them apart. But the text of a sibling may also come into the batch as the positive or a hard negative of another query,
without its own row. So every pair of a query and an answer in the data is looked up, whichever rows are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from train.data.dataset import TrainingData
from train.data.prompted_input import text_keys
from train.losses.inputs import NEVER, KnownAnswers

_BLOCK = 8192
"""Number of rows whose texts are in memory at the same time."""
Keys = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Siblings:
    """By the key of a query the keys of its answers, if it has several; by that of an answer those of its queries."""

    answers: Mapping[int, Keys]
    askers: Mapping[int, Keys]

    def known(self, anchors: Int[Tensor, " pair"], positives: Int[Tensor, " pair"]) -> KnownAnswers | None:
        """What the data know of these pairs beyond the batch; None if it is nothing."""
        if not (self.answers or self.askers):
            return None
        found = KnownAnswers(_table(self.answers, anchors), _table(self.askers, positives))
        return found if found.answers.numel() or found.askers.numel() else None


def find_siblings(data: TrainingData, normalize: Callable[[str], str]) -> Siblings:
    """The siblings in all pairs of the data. Texts are compared as the model reads them."""
    blocks = [np.stack([*map(_keys, zip(*rows, strict=True))]) for rows in _pairs(data, normalize)]
    if not blocks:
        return Siblings({}, {})
    anchors, positives = np.concatenate(blocks, axis=1)
    return Siblings(_several(anchors, positives), _several(positives, anchors))


def _pairs(data: TrainingData, normalize: Callable[[str], str]) -> Iterator[list[tuple[str, str]]]:
    for table in data.tables:
        texts = iter(table.texts if table.kind == "pairs" else ())
        while rows := [(normalize(row[0]), normalize(row[1])) for row in islice(texts, _BLOCK)]:
            yield rows


def _keys(texts: Sequence[str]) -> Keys:
    found: Keys = text_keys(texts).numpy()
    return found


def _several(left: Keys, right: Keys) -> dict[int, Keys]:
    """By each key on the left that comes with several keys on the right, those keys."""
    order = np.lexsort((right, left))
    left, right = left[order], right[order]
    new = np.ones(len(left), dtype=bool)
    new[1:] = (np.diff(left) != 0) | (np.diff(right) != 0)
    left, right = left[new], right[new]
    names, starts, counts = np.unique(left, return_index=True, return_counts=True)
    places = np.flatnonzero(counts > 1).tolist()
    return {int(names[place]): right[starts[place] : starts[place] + counts[place]] for place in places}


def _table(known: Mapping[int, Keys], names: Int[Tensor, " pair"]) -> Int[Tensor, "pair known"]:
    """A row of keys for each name, as long as the longest."""
    rows = [known.get(name, np.empty(0, dtype=np.int64)) for name in names.tolist()]
    table = np.full((len(rows), max(map(len, rows), default=0)), NEVER, dtype=np.int64)
    for row, keys in zip(table, rows, strict=True):
        row[: len(keys)] = keys
    return torch.from_numpy(table)
