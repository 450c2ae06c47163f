"""The nearest others of every vector of a corpus: all compared, or through an HNSW graph."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from dec2vec.corpus.index import others
from dec2vec.corpus.search import Ranking, exact_top, faiss_top

Method = Literal["exact", "hnsw"]


def nearest_others(vectors: Float32[np.ndarray, "rows dim"], k: int, method: Method = "exact") -> Ranking:
    """The k most similar other rows of each row, best first; fewer columns where there are fewer others.

    exact takes time with the square of the rows; hnsw may miss a few and then gives -1.
    """
    depth = min(k + 1, len(vectors))
    found = exact_top(vectors, vectors, depth) if method == "exact" else faiss_top(vectors, vectors, depth, "hnsw")
    return others(found, np.arange(len(vectors), dtype=np.int64))


def mean_distances(ranking: Ranking) -> Float[np.ndarray, " rows"]:
    """Mean of 1 - cosine to the neighbours found; a row without any is as far as can be (2)."""
    is_found = ranking.positions >= 0
    total = np.where(is_found, 1.0 - ranking.scores.astype(np.float64), 0.0).sum(axis=1)
    counts = is_found.sum(axis=1)
    return np.where(counts > 0, total / np.maximum(counts, 1), 2.0)
