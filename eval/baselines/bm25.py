"""BM25 by bm25s with its usual settings (Lucene's formula, k1 1.5, b 0.75), stop words left out and words stemmed.

Which language the stop words and stems are of is told by the documents themselves.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from dec2vec.corpus.exact_search import Ranking
from dec2vec.errors import UserError
from eval.baselines.ranking import best_first, by_text
from eval.baselines.words import index_words

LANGUAGES = (
    "English",
    "German",
    "Dutch",
    "French",
    "Spanish",
    "Portuguese",
    "Italian",
    "Russian",
    "Swedish",
    "Norwegian",
    "Danish",
    "Turkish",
)
"""Those for which bm25s has stop words and PyStemmer a stemmer."""
LEAST = 0.15
"""Share of a text's words that are stop words of its language; in another language it is less."""


class Bm25:
    """Of a corpus in no language of `LANGUAGES` all words are kept as they are."""

    def __init__(self) -> None:
        self.name = "bm25"
        self.described = ""
        self._index: Any = None
        self._precedence = by_text([])
        self._stopwords: frozenset[str] = frozenset()
        self._stemmer: Any = None

    def fit(self, texts: Sequence[str]) -> None:
        """Raises UserError where no document has a word."""
        import bm25s
        from Stemmer import Stemmer

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for debug output when it is imported
        counted = [index_words(text) for text in texts]
        language = language_of(counted)
        self._stopwords = frozenset() if language is None else _stopwords(language)
        self._stemmer = None if language is None else Stemmer(language.lower())
        self.described = "no stop words or stems" if language is None else f"{language} stop words and stems"
        documents = [self._terms(words) for words in counted]
        if not any(documents):
            raise UserError(f"{self.name}: none of the {len(texts)} documents has a word")
        self._precedence = by_text(texts)
        self._index = bm25s.BM25()
        self._index.index(documents, show_progress=False)

    def rank(self, queries: Sequence[str], k: int) -> Ranking:
        """Only documents that have a term in common with the query are found; of equal ones the first by its text."""
        if self._index is None:
            raise UserError(f"{self.name} has no index; fit it on the documents")
        scores = (self._scores(self._terms(index_words(query))) for query in queries)
        return best_first(scores, self._precedence, len(queries), k)

    def _terms(self, words: Sequence[str]) -> list[str]:
        kept = [word for word in words if word not in self._stopwords]
        return kept if self._stemmer is None else list(self._stemmer.stemWords(kept))

    def _scores(self, terms: list[str]) -> np.ndarray:
        if not terms:
            return np.zeros(len(self._precedence))
        return np.asarray(self._index.get_scores(terms), dtype=np.float64)


def language_of(texts: Sequence[Sequence[str]]) -> str | None:
    """The language whose stop words are most of the words; None where those of no language are many."""
    counts = Counter(word for words in texts for word in words)
    total = max(1, counts.total())
    shares = {language: sum(counts[word] for word in _stopwords(language)) / total for language in LANGUAGES}
    likeliest = max(shares, key=lambda language: shares[language])
    return likeliest if shares[likeliest] >= LEAST else None


def _stopwords(language: str) -> frozenset[str]:
    from bm25s import stopwords

    code = "EN" if language == "English" else language.upper()
    return frozenset(getattr(stopwords, f"STOPWORDS_{code}"))
