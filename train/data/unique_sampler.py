"""Batches in which no text occurs twice: a copy of the positive among the negatives would teach the opposite.

The masks of the loss also ignore equal texts, but then a negative is lost. Here the batch gets another row instead.
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
    """Each row once per epoch, in batches in which no two rows share a key.

    `keys[row]` are the texts of the row; texts that no other row has may be omitted. In the order of `Mixed`, each row
    goes into the first batch with room after the last batch that has one of its keys. Rows that are left at the end of
    the epoch join any batch without their keys, beyond its size. A batch of a single row gets another row from a large
    one. A row is left out only if every batch has one of its keys: of a text in more rows than an epoch has batches,
    each epoch leaves out other rows.
    """

    keys: Sequence[Keys] = field(repr=False)
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return steps_per_epoch(len(self.keys), self.batch)

    def rows(self, step: int) -> Indices:
        """Rows of the global batch at `step` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[position]

    def epoch(self, epoch: int) -> list[Indices]:
        """The batches of an epoch. They are filled on first use, in about two seconds per million rows."""
        return _epoch(self, epoch)


def shared_keys(rows: Indices, keys: Indices, count: int) -> list[Keys]:
    """The keys that each of `count` rows shares with another row, as small numbers. Most rows share none.

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
        _squeeze_in(left, sampler.keys, batches)  # a batch that gave a row away may take another one
    found = [np.array(batch, dtype=np.int64) for batch in batches]
    for batch in found:
        batch.setflags(write=False)
    return found


def _fill(order: list[int], keys: Sequence[Keys], size: int, count: int) -> tuple[list[list[int]], list[int]]:
    """Batches of at most `size` rows, and the rows for which no batch with room was left."""
    batches: list[list[int]] = [[] for _ in range(count)]
    following: dict[int, int] = {}  # key -> the first batch after the last one that has it
    room = list(range(count + 1))  # a forest that leads from any batch to the next one with room (`count`: none)
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
    """Add each late row to one of the smallest batches without its keys, in turn, beyond the batch size.

    Returns the rows for which there is no such batch.
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
    """Give each batch of one row, which has no negatives, another row without its keys from the largest batch.

    True if a row was moved. A batch with more rows than the single row has keys always has a suitable row.
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
    """Turns of the batches that are in none of the sets `taken`, from `begin` to the end and from the start again."""
    if any(len(place) == len(numbers) for place in taken):
        return
    for turn in chain(range(begin, len(numbers)), range(begin)):
        if not any(numbers[turn] in place for place in taken):
            yield turn
