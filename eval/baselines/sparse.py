"""Counts of words by scikit-learn, with its usual settings, in any script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import Side
from eval.baselines.words import index_words


class CountVectors:
    """A scikit-learn vectorizer; words that the text of the fit lacks count for nothing."""

    learns = True

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self.name = name
        self._make = make
        self._vectorizer: Any = None

    def fit(self, texts: Sequence[str]) -> None:
        """Vocabulary and document frequencies."""
        vectorizer = self._make()
        try:
            vectorizer.fit(texts)
        except ValueError as error:
            raise UserError(f"{self.name} cannot be fitted on {len(texts)} texts: {error}") from None
        self._vectorizer = vectorizer

    def encode(self, texts: Sequence[str], side: Side | None = None) -> csr_matrix:
        """Sparse float32 (n, vocabulary); both sides alike."""
        if self._vectorizer is None:
            raise UserError(f"{self.name} has no vocabulary; fit it on text")
        if not texts:
            return csr_matrix(np.empty((0, len(self._vectorizer.vocabulary_)), dtype=np.float32))
        return csr_matrix(self._vectorizer.transform(texts), dtype=np.float32)


def bag_of_words() -> CountVectors:
    """How often each word occurs: `CountVectorizer()`."""

    def make() -> Any:
        from sklearn.feature_extraction.text import CountVectorizer

        return CountVectorizer(analyzer=index_words, dtype=np.float32)

    return CountVectors("bag-of-words", make)


def tfidf() -> CountVectors:
    """Counts times smoothed inverse document frequency: `TfidfVectorizer()`."""

    def make() -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(analyzer=index_words, dtype=np.float32)

    return CountVectors("tfidf", make)
