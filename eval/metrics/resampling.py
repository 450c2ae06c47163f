"""Bootstrap of figures that are means over units (queries, texts, pairs): a matrix product.

The multiplicities are those of `eval.metrics.statistics`: seed, number of units and index decide each resample, so that
every system of a task meets the same ones and differences of two systems are paired. `Task.seed_of` puts the task's
texts into the seed: two tasks of one size share no draws, and averages over tasks resample each on its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64

CHUNK = 64
"""Resamples drawn together: bounds memory, changes nothing."""


def multiplicities(n: int, resamples: int, seed: int) -> Iterator[Float64[np.ndarray, "chunk units"]]:
    """How often each of `n` units is drawn, some resamples at a time."""
    for start in range(0, resamples, CHUNK):
        rows = [_draw(n, seed, index) for index in range(start, min(start + CHUNK, resamples))]
        yield np.stack(rows)


def resampled_means(
    values: Float64[np.ndarray, "units metrics"], resamples: int, seed: int
) -> Float64[np.ndarray, "resamples metrics"]:
    """The mean of each column in every resample."""
    n = len(values)
    return np.concatenate([counts @ values / n for counts in multiplicities(n, resamples, seed)])


def _draw(n: int, seed: int, index: int) -> Float64[np.ndarray, " units"]:
    generator = np.random.default_rng((seed, n, index))
    return np.bincount(generator.integers(0, n, n), minlength=n).astype(np.float64)
