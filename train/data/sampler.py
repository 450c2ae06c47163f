"""The rows of each step, as a pure function of seed and step, so that resuming needs no stored position.

Batches are drawn from all sources (Mixed) or from one source each (OneSource). In the latter, all negatives resemble
the positive in topic and style, so that these do not reveal the answer (Nussbaum et al. 2024, Nomic Embed).

Every rank computes the global batch and takes its shard, so the order does not depend on the number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dec2vec.errors import UserError

Indices = NDArray[np.int64]


@runtime_checkable
class Sampler(Protocol):
    """The order of a set of rows, numbered from 0."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps that use as many rows as there are."""

    def rows(self, step: int) -> Indices:
        """Rows of the global batch at `step` (from 0)."""


@dataclass(frozen=True)
class Mixed:
    """Batches from all `n` rows. Each row comes once per epoch."""

    n: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that hold every row once."""
        return steps_per_epoch(self.n, self.batch)

    def rows(self, step: int) -> Indices:
        """Rows of the global batch at `step` (from 0)."""
        return batch_indices(self.n, self.batch, self.seed, step)


@dataclass(frozen=True)
class Even:
    """All `n` rows in each epoch, in a given number of batches whose sizes differ by one at most."""

    n: int
    steps_per_epoch: int
    seed: int

    def rows(self, step: int) -> Indices:
        """Rows of the global batch at `step` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return shard(permutation(self.n, self.seed, epoch), position, self.steps_per_epoch)


@dataclass(frozen=True, eq=False)
class Grouped:
    """Groups of rows, drawn by `order` as if each were a row: a batch has all rows of each of its groups."""

    groups: Sequence[Indices] = field(repr=False)
    order: Sampler
    divided: int = 0
    """Number of queries with more rows than a group may have, each of which has several groups."""
    queries: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that hold every row once."""
        return self.order.steps_per_epoch

    def rows(self, step: int) -> Indices:
        """Rows of the global batch at `step` (from 0)."""
        return np.concatenate([self.groups[group] for group in self.order.rows(step)])


@dataclass(frozen=True)
class OneSource:
    """Batches from one source each. Sources are drawn in proportion to `weights`, their rows in an order of their own.

    Rows are numbered through all sources, of which source i has `sizes[i]`.
    """

    parts: tuple[Sampler, ...]
    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that hold every row of every source once."""
        return sum(part.steps_per_epoch for part in self.parts)

    def rows(self, step: int) -> Indices:
        """Rows of the global batch at `step` (from 0)."""
        sources, turns = _drawn_sources(self.weights, self.seed, 1 << max(10, step.bit_length()))
        source = int(sources[step])
        return sum(self.sizes[:source]) + self.parts[source].rows(int(turns[step]))


def batch_indices(n: int, batch: int, seed: int, step: int) -> Indices:
    """Rows of the global batch at `step` (from 0). Each epoch is a fresh permutation with every row once.

    The last batch of an epoch is smaller if `batch` does not divide `n`. A single remaining row, which would have no
    negatives, joins the batch before it.
    """
    epoch, position = divmod(step, steps_per_epoch(n, batch))
    last = position == steps_per_epoch(n, batch) - 1
    return permutation(n, seed, epoch)[position * batch : None if last else (position + 1) * batch]


def steps_per_epoch(n: int, batch: int) -> int:
    """Number of batches that hold every row once."""
    if batch < 2:
        raise ValueError(f"a batch of {batch} has no negatives")
    if n < batch:
        raise UserError(f"batch.size {batch} is larger than the data ({n} pairs); use batch.size {n} or less")
    full, rest = divmod(n, batch)
    return full + (rest >= 2)


def shard(indices: Indices, rank: int, world: int) -> Indices:
    """The contiguous shard of `rank`. Shards differ in size by at most one, and are `indices` when joined in order."""
    start, stop = (len(indices) * edge // world for edge in (rank, rank + 1))
    return indices[start:stop]


@lru_cache(maxsize=16)
def permutation(n: int, seed: int, epoch: int) -> Indices:
    """The rows of an epoch in their order, read-only. Several are cached, because sources take turns."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    order.setflags(write=False)
    return order


@lru_cache(maxsize=2)
def _drawn_sources(weights: tuple[float, ...], seed: int, steps: int) -> tuple[Indices, Indices]:
    """The source of each step, and how many earlier steps had the same one. More steps extend the same sequence."""
    chances = np.array(weights) / sum(weights)
    sources = np.random.default_rng([seed, 0, 1]).choice(len(weights), size=steps, p=chances)
    turns = np.empty_like(sources)
    for source in range(len(weights)):
        mine = sources == source
        turns[mine] = np.arange(mine.sum())
    return sources, turns


@dataclass(frozen=True, eq=False)
class ByLabel:
    """Each row once per epoch, in groups of `group` rows of one label (all of its rows if a label has fewer).

    Groups have up to 2 `group` - 1 rows, so that no row is left over. A batch holds complete groups, and so a few rows
    more or fewer than `batch`. The groups of a label are spread evenly over the epoch: batches hold many labels.
    """

    labels: Indices = field(repr=False)
    batch: int
    group: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that hold every row once."""
        return steps_per_epoch(len(self.labels), self.batch)

    def rows(self, step: int) -> Indices:
        """Rows of the global batch at `step` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order, edges = _label_epoch(self, epoch)
        return order[edges[position] : edges[position + 1]]

    @cached_property
    def members(self) -> list[Indices]:
        """The rows of each label."""
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.labels[order])) + 1)


@lru_cache(maxsize=16)
def _label_epoch(sampler: ByLabel, epoch: int) -> tuple[Indices, Indices]:
    """All rows in their order, and the boundaries of the batches in it; read-only."""
    generator = np.random.default_rng([sampler.seed, epoch, 2])
    groups: list[Indices] = []
    places: list[np.ndarray] = []
    for members in sampler.members:
        count = max(1, len(members) // sampler.group)
        groups.extend(np.array_split(generator.permutation(members), count))
        places.append((np.arange(count) + generator.random(count)) / count)
    sequence = [groups[place] for place in np.argsort(np.concatenate(places), kind="stable")]
    order = np.concatenate(sequence)
    starts = np.cumsum([0, *map(len, sequence)])
    steps = sampler.steps_per_epoch
    quotas = -(np.arange(steps + 1) * -len(order) // steps)  # rounded up
    edges = starts[np.searchsorted(starts, quotas)]
    order.setflags(write=False)
    return order, edges
