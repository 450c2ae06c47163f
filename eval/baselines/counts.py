"""Bag of words and TF-IDF by scikit-learn, as sparse vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import Side
from eval.baselines.words import words


class CountVectors:
    """A scikit-learn vectoriser; words that the training text lacks count for nothing."""

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
            raise UserError(f"{self.name}: can't be fitted on {len(texts)} texts: {error}") from None
        self._vectorizer = vectorizer

    def encode(self, texts: Sequence[str], side: Side = "query") -> csr_matrix:
        """Sparse float32 (n, vocabulary); both sides alike."""
        if self._vectorizer is None:
            raise UserError(f"{self.name}: has no vocabulary yet; fit it on training-side text (fit)")
        if not texts:
            return csr_matrix(np.empty((0, len(self._vectorizer.vocabulary_)), dtype=np.float32))
        return csr_matrix(self._vectorizer.transform(texts), dtype=np.float32)


def bag_of_words() -> CountVectors:
    """How often each word occurs."""

    def make() -> Any:
        from sklearn.feature_extraction.text import CountVectorizer

        return CountVectorizer(analyzer=words, dtype=np.float32)

    return CountVectors("bag-of-words", make)


def tfidf() -> CountVectors:
    """Counts, damped (1 + log), times smoothed inverse document frequency."""

    def make() -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(analyzer=words, sublinear_tf=True, dtype=np.float32)

    return CountVectors("tfidf", make)
