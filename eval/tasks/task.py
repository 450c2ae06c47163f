"""What every task is to the lab: texts to embed, a dev score to choose by, figures to report.

A task never sees an encoder: it names its texts, whoever runs it brings one vector for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64


@dataclass(frozen=True, eq=False)
class Figure:
    """One measured number with its bootstrap values.

    Paired across systems: the same seed and the same units give the same resamples.
    """

    metric: str
    value: float
    resampled: Float64[np.ndarray, " resamples"]
    n: int
    """Units that were resampled: pairs, texts or queries."""


@dataclass(frozen=True, eq=False)
class TaskVectors:
    """What an encoder gave for one split."""

    queries: Float32[np.ndarray, "queries dim"]
    """Vectors of `Texts.queries`, in order."""
    documents: Float32[np.ndarray, "documents dim"]
    """Vectors of `Texts.documents`, in order; shape (0, dim) when the task has one side."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Distinct texts to embed, each once; the instruct prompt treats the sides differently."""

    queries: list[str]
    documents: list[str]


@runtime_checkable
class Task(Protocol):
    """Data, what is chosen from it, and what is measured on it."""

    @property
    def name(self) -> str:
        """Unique in a report."""

    @property
    def metric(self) -> str:
        """The main metric, shown in the table and used for choices."""

    @property
    def dev(self) -> Texts | None:
        """None: the task has no dev data; the reading is then chosen elsewhere."""

    @property
    def test(self) -> Texts:
        """What the figures are measured on."""

    def dev_score(self, vectors: TaskVectors) -> float:
        """The main metric on dev; higher is better."""

    def measure(self, dev: TaskVectors | None, test: TaskVectors, resamples: int, seed: int) -> list[Figure]:
        """Figures on test, the main one first; thresholds and the like come from the dev vectors alone."""


@runtime_checkable
class Itemised(Protocol):
    """Beside a `Task`: made of items that can be left out one by one, as those are that training has shown."""

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Texts of each scored test item: two of a pair, one of a labelled text, the query of a search."""

    def measure_items(
        self, rows: Int64[np.ndarray, " kept"], dev: TaskVectors | None, test: TaskVectors, resamples: int, seed: int
    ) -> list[Figure]:
        """`Task.measure` on the items at `rows` alone, with what dev chose for all; nan where they are all alike."""


def missing(metric: str, resamples: int, n: int) -> Figure:
    """A figure that `n` items do not allow."""
    return Figure(metric, float("nan"), np.full(resamples, np.nan), n)
