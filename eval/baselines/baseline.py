"""What an outside baseline is: texts -> vectors, pairs of texts -> similarities, or queries -> ranked documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64
from scipy.sparse import csr_matrix

from dec2vec.corpus.exact_search import Ranking
from dec2vec.prompts.prompt import Side

Vectors = Float32[np.ndarray, "_ _"] | csr_matrix


@runtime_checkable
class VectorBaseline(Protocol):
    """Fitted on text that a task gives, or on training-side text; never on a judgement. See `fit_text`."""

    name: str
    learns: bool
    """Whether it learns anything from that text; the others come trained."""

    def fit(self, texts: Sequence[str]) -> None:
        """Learn vocabulary, weights or vectors, in place of those of an earlier fit.

        Raises UserError for text without a word.
        """
        ...

    def encode(self, texts: Sequence[str], side: Side | None = None) -> Vectors:
        """float32 (n, d), dense or sparse, compared by cosine. A text of unknown words is a zero vector.

        `side` is None where both texts of a comparison are of one kind.
        """
        ...


@runtime_checkable
class PairBaseline(Protocol):
    """Compares two texts directly: it serves pair tasks, and no task that needs vectors. Nothing is fitted."""

    name: str

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> Float64[np.ndarray, " pairs"]:
        """Symmetric, from 0 (nothing in common) to 1 (the same words)."""
        ...


@runtime_checkable
class SearchBaseline(Protocol):
    """Ranks documents, and serves retrieval alone."""

    name: str
    described: str
    """What it did with the documents, such as which language it took them for."""

    def fit(self, texts: Sequence[str]) -> None:
        """Index the documents of a corpus, in their order. Raises UserError for documents without a word."""
        ...

    def rank(self, queries: Sequence[str], k: int) -> Ranking:
        """The k best documents of each query; position -1 where fewer have a word in common with it."""
        ...


Baseline = VectorBaseline | PairBaseline | SearchBaseline
