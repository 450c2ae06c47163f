"""Which pairs each step sees: a pure function of seed and step, so that resuming needs no stored position.

Every rank computes the global batch and takes its share: the order doesn't depend on the number of processes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dec2vec.errors import UserError

Indices = NDArray[np.int64]


def batch_indices(n: int, batch: int, seed: int, step: int) -> Indices:
    """Rows of the global batch at `step` (from 0). Each epoch is a fresh permutation with every row once.

    The last batch of an epoch is short when `batch` does not divide `n`; a rest of one row, which would have
    no negatives, joins the batch before it.
    """
    epoch, position = divmod(step, steps_per_epoch(n, batch))
    last = position == steps_per_epoch(n, batch) - 1
    return _permutation(n, seed, epoch)[position * batch : None if last else (position + 1) * batch]


def steps_per_epoch(n: int, batch: int) -> int:
    """Batches that hold every row once."""
    if batch < 2:
        raise ValueError(f"a batch of {batch} has no negatives")
    if n < batch:
        raise UserError(f"batch.size {batch} is larger than the data ({n} pairs); use --batch.size {n} or less")
    full, rest = divmod(n, batch)
    return full + (rest >= 2)


def shard(indices: Indices, rank: int, world: int) -> Indices:
    """The contiguous share of `rank`: sizes differ by one at most, and all shares in order are `indices`."""
    start, stop = (len(indices) * edge // world for edge in (rank, rank + 1))
    return indices[start:stop]


@lru_cache(maxsize=2)
def _permutation(n: int, seed: int, epoch: int) -> Indices:
    order = np.random.default_rng([seed, epoch]).permutation(n)
    order.setflags(write=False)
    return order
