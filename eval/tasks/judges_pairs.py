"""Tasks that need no vectors: a similarity of each pair is enough, whatever it comes from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from eval.tasks.pair_files import LabelledPairs
from eval.tasks.task import Figure


@runtime_checkable
class JudgesPairs(Protocol):
    """Pair matching and the relevance gap: beside a `Task`, for baselines that compare texts directly."""

    @property
    def test_pairs(self) -> LabelledPairs:
        """What is measured on."""

    @property
    def dev_pairs(self) -> LabelledPairs | None:
        """What a threshold is chosen on."""

    def measure_scores(
        self,
        dev: Float64[np.ndarray, " dev_pairs"] | None,
        test: Float64[np.ndarray, " test_pairs"],
        resamples: int,
        seed: int,
    ) -> list[Figure]:
        """As `Task.measure`, from similarities in the order of the pairs."""
