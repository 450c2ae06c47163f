"""Batches for losses that need two texts of a label: small groups of one label, spread over the epoch.

Supervised contrast (Khosla et al. 2020) learns from texts of equal label in a batch, and random batches of a data set
with many labels hold hardly any.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from train.sampler import Indices, steps_per_epoch


@dataclass(frozen=True, eq=False)
class ByLabel:
    """Each row once an epoch, `group` rows of its label together (all of them where the label has fewer).

    Groups of up to 2 `group` - 1 rows, for none is left over; a batch holds whole groups, hence a few rows more or
    less than `batch`. A label's groups are spread evenly over the epoch, so that batches hold many labels.
    """

    labels: Indices = field(repr=False)
    batch: int
    group: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches that hold every row once."""
        return steps_per_epoch(len(self.labels), self.batch)

    def rows(self, step: int) -> Indices:
        """Rows of the global batch at `step` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order, edges = _label_epoch(self, epoch)
        return order[edges[position] : edges[position + 1]]

    @cached_property
    def members(self) -> list[Indices]:
        """Rows of each label."""
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.labels[order])) + 1)


@lru_cache(maxsize=16)
def _label_epoch(sampler: ByLabel, epoch: int) -> tuple[Indices, Indices]:
    """All rows in their order, and where each batch begins and ends in it; read-only."""
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
