"""What every task is to the lab: texts to embed, a dev score to choose by, figures to report.

A task never sees an encoder: it names its texts, whoever runs it brings one vector for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray

from dec2vec.decoder.pooling import View
from eval.metrics.classification import Values, Weights, whole
from eval.metrics.resampling import multiplicities


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


Vectors = Mapping[View, NDArray[np.float32]]


class BothSides(Mapping[View, TaskVectors]):
    """Put together when a view is asked for, as the sides may be read from disk; one-sided without `documents`."""

    def __init__(self, queries: Vectors, documents: Vectors | None = None) -> None:
        self._queries, self._documents = queries, documents

    def __getitem__(self, view: View) -> TaskVectors:
        queries = self._queries[view]
        return TaskVectors(queries, queries[:0] if self._documents is None else self._documents[view])

    def __iter__(self) -> Iterator[View]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)


def weighted_figures(
    metrics: Callable[[Weights], dict[str, Values]], main: str, n: int, resamples: int, seed: int
) -> list[Figure]:
    """`metrics` by name on all `n` units and on every resample of them; `main` is the first."""
    values = metrics(whole(n))
    parts = [metrics(counts) for counts in multiplicities(n, resamples, seed)]
    names = sorted(values, key=lambda name: name != main)
    return [Figure(name, float(values[name][0]), np.concatenate([part[name] for part in parts]), n) for name in names]
