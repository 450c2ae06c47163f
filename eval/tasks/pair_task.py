"""Tasks on pairs of texts. They need no vectors: a similarity of each pair is enough, whatever it comes from."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int64

from dec2vec.errors import UserError
from eval.tasks.columns import ColumnsRead
from eval.tasks.pair_files import Pairs
from eval.tasks.task import E, Evidence, Task, TaskVectors, Texts

P = TypeVar("P", bound=Pairs)


@dataclass(frozen=True, eq=False)
class PairTask(Task[E], Generic[P, E]):
    """Similarity, pair matching and the relevance gap; also for baselines that compare texts directly."""

    test_pairs: P
    """What is measured on."""
    dev_pairs: P | None = None
    """What choices are made on."""
    has_threshold: ClassVar[bool] = False
    """Whether the scores of dev choose something for test."""

    def __post_init__(self) -> None:
        if self.dev_pairs is None or self.dev_pairs is self.test_pairs:  # one object for both: nothing is reported
            return
        if self.dev_pairs.content_hash == self.test_pairs.content_hash:
            name, dev = self.test_pairs.name, self.dev_pairs.name
            raise UserError(
                f"{name} contains the pairs of {dev}; use different files, because selection on test data is leakage"
            )

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
    def columns(self) -> list[ColumnsRead]:
        """Of the test file, then of the dev file."""
        files = [self.test_pairs, *([] if self.dev_pairs is None else [self.dev_pairs])]
        return [pairs.columns for pairs in files if pairs.columns is not None]

    @property
    def known_dev_pairs(self) -> P:
        """Raises UserError where there are no dev pairs."""
        if self.dev_pairs is None:
            raise UserError(f"{self.name} has no dev pairs; give a dev file")
        return self.dev_pairs

    def evidence(self, dev: TaskVectors | None, test: TaskVectors) -> E:
        pairs = self.dev_pairs if self.has_threshold else None
        dev_cosines = None if dev is None or pairs is None else pairs.cosines(dev)
        return self.evidence_from_scores(dev_cosines, self.test_pairs.cosines(test))

    @abstractmethod
    def evidence_from_scores(
        self, dev: Float64[np.ndarray, " dev_pairs"] | None, test: Float64[np.ndarray, " test_pairs"]
    ) -> E:
        """The same from similarities, in the order of the pairs, that need not be cosines."""


@dataclass(frozen=True, eq=False)
class PairEvidence(Evidence):
    """Cosines of the test pairs with their labels, and the threshold that dev chose (None where it chose none)."""

    cosines: Float64[np.ndarray, " pairs"]
    labels: Bool[np.ndarray, " pairs"]
    threshold: float | None = None
    groups: Int64[np.ndarray, " pairs"] | None = None
    """What is resampled, where several pairs are no independent evidence: one number for those of a group."""

    def at(self, rows: Int64[np.ndarray, " kept"]) -> PairEvidence | None:
        """None where all these pairs have one label."""
        labels = self.labels[rows]
        is_of_both_kinds = labels.any() and not labels.all()
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, cosines=self.cosines[rows], labels=labels, groups=groups) if is_of_both_kinds else None

    @property
    def chosen(self) -> str:
        return "" if self.threshold is None else f"threshold {self.threshold:.4f}"

    @property
    def is_finite(self) -> bool:
        """Whether no cosine is nan."""
        return bool(np.isfinite(self.cosines).all())
