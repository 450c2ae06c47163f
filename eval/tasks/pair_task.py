"""Tasks on labelled pairs. They need no vectors: a similarity of each pair is enough, whatever it comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from dec2vec.errors import UserError
from eval.tasks.pair_files import LabelledPairs, refuse_dev_as_test
from eval.tasks.task import Figure, TaskVectors, Texts, missing


@dataclass(frozen=True, eq=False)
class PairTask(ABC):
    """Pair matching and the relevance gap: a `Task`, and for baselines that compare texts directly."""

    name: str
    metric: str
    test_pairs: LabelledPairs
    """What is measured on."""
    dev_pairs: LabelledPairs | None = None
    """What choices are made on."""

    def __post_init__(self) -> None:
        refuse_dev_as_test(self.dev_pairs, self.test_pairs)

    @property
    def dev(self) -> Texts | None:
        return None if self.dev_pairs is None else self.dev_pairs.texts

    @property
    def test(self) -> Texts:
        return self.test_pairs.texts

    @property
    def content_hash(self) -> str:
        """sha256 of the test pairs."""
        return self.test_pairs.content_hash

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Both texts of each test pair."""
        return self.test_pairs.items

    @property
    def known_dev_pairs(self) -> LabelledPairs:
        """UserError without dev pairs."""
        if self.dev_pairs is None:
            raise UserError(f"{self.name} has no dev pairs; give a dev file")
        return self.dev_pairs

    @abstractmethod
    def measure(self, dev: TaskVectors | None, test: TaskVectors, resamples: int, seed: int) -> list[Figure]:
        """As `Task.measure`."""

    @abstractmethod
    def measure_scores(
        self,
        dev: Float64[np.ndarray, " dev_pairs"] | None,
        test: Float64[np.ndarray, " test_pairs"],
        resamples: int,
        seed: int,
    ) -> list[Figure]:
        """The same of similarities, in the order of the pairs, that need not be cosines."""

    def measure_items(
        self, rows: Int64[np.ndarray, " kept"], dev: TaskVectors | None, test: TaskVectors, resamples: int, seed: int
    ) -> list[Figure]:
        """On some of the test pairs; nan where they have one label."""
        pairs = self.test_pairs.at(rows)
        if not pairs.is_of_both_kinds:
            return [missing(self.metric, resamples, len(rows))]
        return replace(self, test_pairs=pairs).measure(dev, test, resamples, seed)
