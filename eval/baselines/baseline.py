"""What an outside baseline is: texts -> vectors, or pairs of texts -> similarities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64
from scipy.sparse import csr_matrix

from dec2vec.prompts.prompt import Side

Vectors = Float32[np.ndarray, "texts dim"] | csr_matrix


@runtime_checkable
class VectorBaseline(Protocol):
    """Fitted on training-side text alone, never on what is evaluated; those that learn nothing ignore it."""

    name: str

    def fit(self, texts: Sequence[str]) -> None:
        """Learn vocabulary, weights or vectors. Raises UserError for text without a word."""
        ...

    def encode(self, texts: Sequence[str], side: Side = "query") -> Vectors:
        """float32 (n, d), dense or sparse, compared by cosine. A text of unknown words is a zero vector."""
        ...


@runtime_checkable
class PairBaseline(Protocol):
    """Compares two texts directly: it serves pair tasks, and no task that needs vectors. Nothing is fitted."""

    name: str

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> Float64[np.ndarray, " pairs"]:
        """Symmetric, from 0 (nothing in common) to 1 (the same words)."""
        ...


Baseline = VectorBaseline | PairBaseline
