"""Right answers that a batch cannot show: those of a query in other rows, and the other queries of an answer.

A query with several positives has a row for each. If two of these rows meet in a batch, the anchors' equal keys keep
them apart. But the text of a sibling may also come into the batch as the positive or a hard negative of another query,
without its own row. So every pair of a query and an answer in the data is looked up, whichever rows are drawn.

A query may have thousands of answers, if it is the name of a class. Only those count that stand in the batch, on any
rank, and that the batch does not show to be its answers.
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
from train.data.stored import StoredTexts
from train.data.stored_siblings import index_siblings
from train.data.table import SourceTable
from train.losses.inputs import NEVER, KnownAnswers, PairInputs

_BLOCK = 8192
"""Number of rows whose texts are in memory at the same time."""
Keys = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Siblings:
    """By the key of a query the keys of its answers, if it has several; by that of an answer those of its queries."""

    answers: Mapping[int, Keys]
    askers: Mapping[int, Keys]

    def __bool__(self) -> bool:
        return bool(self.answers or self.askers)

    def known(self, pairs: PairInputs, batch: PairInputs) -> KnownAnswers | None:
        """What the data know of these pairs beyond the whole `batch`, of which they are a part; None if it is nothing.

        No text is listed that the batch lacks, so that the tables are never wider than the batch.
        """
        anchors, positives = pairs.anchor_keys, _positives(pairs)
        documents = _Present.of(batch.document_keys, batch.document_anchors)
        queries = _Present.of(batch.anchor_keys, _positives(batch))
        found = KnownAnswers(_table(self.answers, anchors, documents), _table(self.askers, positives, queries))
        return found if found.answers.numel() or found.askers.numel() else None


@dataclass(frozen=True, eq=False)
class _Present:
    """The different texts of a batch in the order of their keys, and the partner of each: its anchor or its positive.

    A text with several partners has `NEVER`.
    """

    texts: Keys
    partners: Keys

    @classmethod
    def of(cls, texts: Int[Tensor, " text"], partners: Int[Tensor, " text"]) -> _Present:
        """By the keys of all texts and of their partners."""
        names, places = np.unique(texts.numpy(), return_inverse=True)
        low, high = (np.full(len(names), limit) for limit in (np.iinfo(np.int64).max, np.iinfo(np.int64).min))
        np.minimum.at(low, places, partners.numpy())
        np.maximum.at(high, places, partners.numpy())
        return cls(names, np.where(low == high, low, NEVER))

    def among(self, known: Keys, name: int) -> Keys:
        """The texts that are among the sorted `known` and have another partner than `name`."""
        if len(known) < len(self.texts):
            found = np.searchsorted(self.texts, known[_is_in(known, self.texts)])
        else:
            found = np.flatnonzero(_is_in(self.texts, known))
        chosen: Keys = self.texts[found[self.partners[found] != name]]
        return chosen


def find_siblings(data: TrainingData, normalize: Callable[[str], str]) -> Siblings:
    """The siblings in all pairs of the data, also in those that are held out. Texts are compared as the model reads
    them."""
    tables = [table for table in (*data.tables, *data.left_out) if table.kind == "pairs" and len(table)]
    if any(isinstance(table.texts, StoredTexts) for table in data.tables):
        return Siblings(*index_siblings(tables, normalize))
    blocks = [np.stack([*map(_keys, zip(*rows, strict=True))]) for rows in _pairs(tables, normalize)]
    if not blocks:
        return Siblings({}, {})
    anchors, positives = np.concatenate(blocks, axis=1)
    return Siblings(_several(anchors, positives), _several(positives, anchors))


def _pairs(tables: Sequence[SourceTable], normalize: Callable[[str], str]) -> Iterator[list[tuple[str, str]]]:
    for table in tables:
        texts = iter(table.texts)
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


def _positives(pairs: PairInputs) -> Int[Tensor, " pair"]:
    return pairs.document_keys[: len(pairs.anchors)]


def _is_in(keys: Keys, ordered: Keys) -> NDArray[np.bool_]:
    """Which keys are among the ordered ones. The time is that of as many binary searches."""
    places = np.searchsorted(ordered, keys)
    places[places == len(ordered)] = 0
    return np.asarray(ordered[places] == keys) if len(ordered) else np.zeros(len(keys), dtype=bool)


def _table(known: Mapping[int, Keys], names: Int[Tensor, " pair"], present: _Present) -> Int[Tensor, "pair known"]:
    """A row of keys for each name, as long as the longest."""
    found = {name: present.among(known[name], name) for name in set(names.tolist()) if name in known}
    rows = [found.get(name, np.empty(0, dtype=np.int64)) for name in names.tolist()]
    table = np.full((len(rows), max(map(len, rows), default=0)), NEVER, dtype=np.int64)
    for row, keys in zip(table, rows, strict=True):
        row[: len(keys)] = keys
    return torch.from_numpy(table)
