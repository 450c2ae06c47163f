"""Figures of a sample and of its resamples, from one function of the units' weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eval.metrics.classification import Values, Weights, whole
from eval.metrics.resampling import multiplicities
from eval.tasks.task import Figure


def weighted_figures(
    metrics: Callable[[Weights], dict[str, Values]], main: str, n: int, resamples: int, seed: int
) -> list[Figure]:
    """`metrics` by name on all `n` units and on every resample of them; `main` is the first."""
    values = metrics(whole(n))
    parts = [metrics(counts) for counts in multiplicities(n, resamples, seed)]
    names = sorted(values, key=lambda name: name != main)
    return [Figure(name, float(values[name][0]), np.concatenate([part[name] for part in parts]), n) for name in names]
