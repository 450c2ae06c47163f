"""Rankings of lexical scores: documents that share nothing with the query are not found at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csr_matrix

from dec2vec.corpus.exact_search import Ranking

BLOCK = 64
"""Queries that are compared with all documents at once, or fewer of many documents:"""
CELLS = 2**25
"""cosines that are in memory at once."""
NOTHING = -1
"""The position of no document."""


def sparse_ranking(
    queries: csr_matrix, documents: csr_matrix, precedence: Int64[np.ndarray, " documents"], k: int
) -> Ranking:
    """By cosine, exactly: nothing is spread out or projected, however many words there are."""
    return best_first(_cosines(_unit(queries), _unit(documents)), precedence, queries.shape[0], k)


def by_text(documents: Sequence[str]) -> Int64[np.ndarray, " documents"]:
    """Positions in the order of the texts: lexical scores often tie, and the order of a file must not decide then."""
    return np.array(sorted(range(len(documents)), key=lambda index: documents[index]), dtype=np.int64)


def best_first(
    scores: Iterable[Float64[np.ndarray, " documents"]],
    precedence: Int64[np.ndarray, " documents"],
    queries: int,
    k: int,
) -> Ranking:
    """The k highest of each query's scores, of equal ones the first by `precedence`; only those above 0."""
    k = min(k, len(precedence))
    positions = np.full((queries, k), NOTHING, dtype=np.int64)
    values = np.zeros((queries, k), dtype=np.float32)
    for row, found in enumerate(scores):
        hits = precedence[found[precedence] > 0]
        best = hits[np.argsort(-found[hits], kind="stable")][:k]
        positions[row, : len(best)], values[row, : len(best)] = best, found[best]
    return Ranking(positions, values)


def _cosines(queries: csr_matrix, documents: csr_matrix) -> Iterator[Float64[np.ndarray, " documents"]]:
    """Rounded to 12 decimals, so that equal documents tie."""
    columns: Any = documents.T
    block = max(1, min(BLOCK, CELLS // max(1, documents.shape[0])))
    for start in range(0, queries.shape[0], block):
        yield from np.asarray((queries[start : start + block] @ columns).toarray()).round(12)


def _unit(rows: csr_matrix) -> csr_matrix:
    from sklearn.preprocessing import normalize

    return csr_matrix(normalize(rows.astype(np.float64)))
