"""Batches in which no text comes twice: a copy of the positive among the negatives would teach the contrary.

The masks of the loss hide equal texts too, but a hidden pair is a negative lost; here the batch is filled with others.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

import numpy as np

from train.data.sampler import Indices, permutation, steps_per_epoch

Keys = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class UniqueTexts:
    """Each row once an epoch, in batches of which no two rows share a key.

    `keys[row]` tells the row's texts; those of no other row may be left out. Rows go, in the order of `Mixed`, into the
    first batch after the last one with a key of theirs that has room. What is late at the end of the epoch joins any
    batch without its keys, past the size. A batch of a single row gets another from a large one. Left out, and others
    in each epoch, are only rows whose texts all batches hold: those of a text in more rows than an epoch has batches.
    """

    keys: Sequence[Keys] = field(repr=False)
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return steps_per_epoch(len(self.keys), self.batch)

    def rows(self, step: int) -> Indices:
        """Rows of the global batch at `step` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[position]

    def epoch(self, epoch: int) -> list[Indices]:
        """Its batches, filled when first asked for: some two seconds a million rows."""
        return _epoch(self, epoch)


def shared_keys(rows: Indices, keys: Indices, count: int) -> list[Keys]:
    """The keys that each of `count` rows shares with another, as small numbers; most rows share none.

    `keys[i]` belongs to row `rows[i]`.
    """
    order = np.lexsort((keys, rows))
    rows, keys = rows[order], keys[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (np.diff(rows) != 0) | (np.diff(keys) != 0)
    rows, keys = rows[first], keys[first]
    _, numbers, counts = np.unique(keys, return_inverse=True, return_counts=True)
    found: list[Keys] = [()] * count
    for place in np.flatnonzero(counts[numbers] > 1).tolist():
        found[rows[place]] += (int(numbers[place]),)
    return found


@lru_cache(maxsize=16)
def _epoch(sampler: UniqueTexts, epoch: int) -> list[Indices]:
    order = permutation(len(sampler.keys), sampler.seed, epoch)
    batches, late = _fill(order.tolist(), sampler.keys, sampler.batch, sampler.steps_per_epoch)
    left = _squeeze_in(late, sampler.keys, batches)
    if _give_company(batches, sampler.keys):
        _squeeze_in(left, sampler.keys, batches)  # where a row went away there may be a place
    found = [np.array(batch, dtype=np.int64) for batch in batches]
    for batch in found:
        batch.setflags(write=False)
    return found


def _fill(order: list[int], keys: Sequence[Keys], size: int, count: int) -> tuple[list[list[int]], list[int]]:
    """Batches of at most `size` rows, and the rows that none with room could take."""
    batches: list[list[int]] = [[] for _ in range(count)]
    following: dict[int, int] = {}  # key -> the first batch after its last one
    room = list(range(count + 1))  # a forest: from any batch to the next with room (`count`: none)
    late = []
    for row in order:
        place = _root(room, max((following.get(key, 0) for key in keys[row]), default=0))
        if place == count:
            late.append(row)
            continue
        batches[place].append(row)
        for key in keys[row]:
            following[key] = place + 1
        if len(batches[place]) == size:
            room[place] = place + 1
    return batches, late


def _root(forest: list[int], node: int) -> int:
    while forest[node] != node:
        forest[node] = forest[forest[node]]
        node = forest[node]
    return node


def _squeeze_in(late: list[int], keys: Sequence[Keys], batches: list[list[int]]) -> list[int]:
    """Put each late row into the smallest batches in turn, past their size, where none of its keys is.

    Returns those for which there is no such batch.
    """
    left: list[int] = []
    if not late:
        return left
    holders: dict[int, set[int]] = {key: set() for row in late for key in keys[row]}
    for number, batch in enumerate(batches):
        for key in (key for row in batch for key in keys[row] if key in holders):
            holders[key].add(number)
    smallest = sorted(range(len(batches)), key=lambda number: len(batches[number]))
    begin = 0
    for row in late:
        places = [holders[key] for key in keys[row]]
        turn = next(_free_turns(smallest, begin, places), None)
        if turn is None:
            left.append(row)
            continue
        number = smallest[turn]
        batches[number].append(row)
        for place in places:
            place.add(number)
        begin = (turn + 1) % len(smallest)
    return left


def _give_company(batches: list[list[int]], keys: Sequence[Keys]) -> bool:
    """A batch of one row has no negatives: it gets another from the largest batch with one that shares no key.

    True if one was moved. A batch of more rows than the lone one has keys always has such a row.
    """
    large = [(-len(batch), number) for number, batch in enumerate(batches) if len(batch) > 2]
    heapq.heapify(large)
    moved = False
    for batch in (batch for batch in batches if len(batch) == 1):
        tried = []
        while large and len(batch) == 1:
            _, number = heapq.heappop(large)
            rows = batches[number]
            free = next((row for row in reversed(rows) if set(keys[row]).isdisjoint(keys[batch[0]])), None)
            if free is not None:
                rows.remove(free)
                batch.append(free)
                moved = True
            if len(rows) > 2:
                tried.append((-len(rows), number))
        for item in tried:
            heapq.heappush(large, item)
    return moved


def _free_turns(numbers: list[int], begin: int, taken: list[set[int]]) -> Iterator[int]:
    """Turns from `begin` on, round and round, of the batches that none of `taken` holds."""
    if any(len(place) == len(numbers) for place in taken):
        return
    for turn in chain(range(begin, len(numbers)), range(begin)):
        if not any(numbers[turn] in place for place in taken):
            yield turn
