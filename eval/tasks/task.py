"""What every task is: texts to embed, a dev score to choose by, figures to report.

A task never sees an encoder: it names its texts, and the caller brings one vector for each.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from dec2vec.decoder.pooling import View
from eval.metrics.classification import Values, Weights, whole
from eval.metrics.resampling import multiplicities
from eval.tasks.columns import ColumnsRead
from eval.tasks.figure import Figure as Figure


@dataclass(frozen=True, eq=False)
class TaskVectors:
    """What an encoder gave for one split."""

    queries: Float32[np.ndarray, "queries dim"]
    """Vectors of `Texts.queries`, in order."""
    documents: Float32[np.ndarray, "documents dim"]
    """Vectors of `Texts.documents`, in order; shape (0, dim) when the task has one side."""

    @classmethod
    def from_queries(cls, vectors: Float32[np.ndarray, "queries dim"]) -> TaskVectors:
        """Of a task with one side."""
        return cls(vectors, vectors[:0])


@dataclass(frozen=True, eq=False)
class DescribedTexts:
    """Texts that a baseline may be fitted on, with what they are in words."""

    texts: Sequence[str]
    described: str
    """What they are, such as `1,400 documents of the corpus`."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Distinct texts to embed, each once; the instruct prompt treats the sides differently."""

    queries: list[str]
    documents: list[str]

    @property
    def both(self) -> list[str]:
        """Queries, then documents."""
        return [*self.queries, *self.documents]


class Evidence:
    """What a system decided on the test items, from which every figure of a task is computed."""

    def at(self, rows: Int64[np.ndarray, " kept"]) -> Evidence | None:
        """The evidence of some of the items; None where they allow no figure."""
        return None

    @property
    def chosen(self) -> str:
        """What dev data chose besides the layer and the post-processing, such as a threshold."""
        return ""


E = TypeVar("E", bound=Evidence)


@dataclass(frozen=True, eq=False)
class Task(ABC, Generic[E]):
    """Data, what is chosen from it, and what is measured on it."""

    kind: ClassVar[str] = ""
    """The section of the configuration that it belongs to."""
    name: str
    """Unique in a report."""
    metric: str
    """The main metric, shown in the table and used for choices."""
    is_judged: ClassVar[bool] = True
    """Whether a higher main figure is a better one. Where it is not, nothing in the report is called best."""
    has_corpus: ClassVar[bool] = False
    """Whether post-processings may be fitted on what it gives, see `corpus`."""

    @property
    @abstractmethod
    def dev(self) -> Texts | None:
        """None where the task has no dev data: another task then chooses layer and post-processing."""

    @property
    @abstractmethod
    def test(self) -> Texts:
        """What the figures are measured on."""

    @property
    def chosen_on(self) -> str:
        """The name of the dev data."""
        return f"{self.name} dev"

    @property
    def items(self) -> list[tuple[str, ...]] | None:
        """Texts of each test item: two of a pair, one of a labelled text, the query of a search.

        None where the task is not made of items that can be left out.
        """
        return None

    def seed_of(self, seed: int) -> int:
        """The seed of this task's resamples: tasks are resampled independently, the systems of one task alike.

        Its test texts are in the seed, or its name where it has none: a copy of a test is no further evidence, and
        shares the draws.
        """
        return int.from_bytes(hashlib.sha256(f"{seed} {self._draws}".encode()).digest()[:8], "big")

    @cached_property
    def _draws(self) -> str:
        digest = hashlib.sha256()
        for item in self.items or [(self.name,)]:
            digest.update("\0".join(item).encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()

    @property
    def columns(self) -> list[ColumnsRead]:
        """The columns that were read, file by file; empty for data that come from no file."""
        return []

    @property
    def own_text(self) -> DescribedTexts | None:
        """What a baseline may be fitted on: the corpus, the train file; None where only training-side text will do."""
        return None

    def corpus(self, vectors: TaskVectors) -> Float32[np.ndarray, "texts dim"] | None:
        """Of one split's vectors those that a post-processing may be fitted on: documents, or texts to be clustered.

        None where that would be a fit on test items.
        """
        return None

    @property
    def notes(self) -> list[str]:
        """What a reader of the figures must know of the data, a line each."""
        return []

    @abstractmethod
    def dev_score(self, vectors: TaskVectors) -> float:
        """The main metric on dev; higher is better."""

    def dev_scores(self, vectors: TaskVectors) -> dict[str, float]:
        """Every metric on dev that is cheap enough for training, the main one among them."""
        return {self.metric: self.dev_score(vectors)}

    @property
    def dev_metrics(self) -> tuple[str, ...]:
        """Those of `dev_scores` of which a higher value is better."""
        return (self.metric,)

    def led_by(self, metric: str) -> Task[E]:
        """The task with another main metric; as it is, where that metric can't be its main one."""
        return replace(self, metric=metric) if metric in self.dev_metrics else self

    @abstractmethod
    def evidence(self, dev: TaskVectors | None, test: TaskVectors) -> E:
        """The decisions on test; thresholds and the like come from the dev vectors alone."""

    @abstractmethod
    def figures(self, evidence: E, resamples: int, seed: int) -> list[Figure]:
        """Figures with their bootstrap values, the main one first."""

    def measure(self, dev: TaskVectors | None, test: TaskVectors, resamples: int, seed: int) -> list[Figure]:
        """The figures of `test`."""
        return self.figures(self.evidence(dev, test), resamples, seed)

    def remarks(self, evidence: E) -> list[str]:
        """Choices of the task's own that lie at the edge of what was tried."""
        return []


FEWEST = 2
"""Items without which there is no figure."""


def clean_figure(task: Task[E], evidence: E, rows: Int64[np.ndarray, " kept"], resamples: int, seed: int) -> Figure:
    """The main figure on the items at `rows`, which training has not seen; what dev chose stays as it was."""
    kept = evidence.at(rows) if len(rows) >= FEWEST else None
    if not isinstance(kept, type(evidence)):
        return Figure(task.metric, float("nan"), np.full(resamples, np.nan), len(rows), clean=True)
    return replace(task.figures(kept, resamples, seed)[0], clean=True)


Vectors = Mapping[View, NDArray[np.float32]]


class BothSides(Mapping[View, TaskVectors]):
    """Vectors of both sides by view, put together on access, as they may be read from disk.

    A task with one side has no `documents`.
    """

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
