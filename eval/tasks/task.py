"""What every task is: texts to embed, one figure to choose by on dev, and the figures to report on test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64


@dataclass(frozen=True, eq=False)
class Figure:
    """One measured number with its bootstrap values, paired across systems: same seed and units, same resamples."""

    metric: str
    value: float
    resampled: Float64[np.ndarray, " resamples"]
    n: int
    """Units: pairs, texts or queries."""


@dataclass(frozen=True, eq=False)
class TaskVectors:
    """Vectors in the order of `Texts`."""

    queries: Float32[np.ndarray, "queries dim"]
    documents: Float32[np.ndarray, "documents dim"]
    """Shape (0, dim) when the task has one side."""


@dataclass(frozen=True, eq=False)
class Texts:
    """What is embedded, by side."""

    queries: list[str]
    documents: list[str]


@runtime_checkable
class Task(Protocol):
    """Vectors in, figures out; `metric` is the main one, shown in the table and used for choices."""

    name: str
    metric: str

    @property
    def dev(self) -> Texts | None:
        """Texts that choices are made on."""
        ...

    @property
    def test(self) -> Texts:
        """Texts that figures are reported on."""
        ...

    def dev_score(self, vectors: TaskVectors) -> float:
        """The main metric on dev."""
        ...

    def measure(self, dev: TaskVectors | None, test: TaskVectors, resamples: int, seed: int) -> list[Figure]:
        """Every figure on test."""
        ...
