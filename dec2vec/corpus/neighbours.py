"""The nearest neighbours of every vector of a corpus, and how far they are."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64

from dec2vec.corpus.exact_search import Ranking, exact_top
from dec2vec.corpus.faiss_index import faiss_top, without_self
from dec2vec.vectors.cosines import exact_cosines

Method = Literal["exact", "hnsw"]
BLOCK = 1024
"""Number of rows whose distances are computed at a time."""


def nearest_others(vectors: Float32[np.ndarray, "rows dim"], k: int, method: Method = "exact") -> Ranking:
    """The k most similar other rows of each row, best first. There are fewer columns if there are fewer other rows.

    The time of exact grows with the square of the number of rows. hnsw may miss some neighbours and then gives -1.
    """
    depth = min(k + 1, len(vectors))
    ranking = exact_top(vectors, vectors, depth) if method == "exact" else faiss_top(vectors, vectors, depth, "hnsw")
    return without_self(ranking, np.arange(len(vectors), dtype=np.int64))


def mean_distances(vectors: Float32[np.ndarray, "rows dim"], ranking: Ranking) -> Float64[np.ndarray, " rows"]:
    """The mean of 1 - cosine over the neighbours that were found; the largest distance, 2, for a row without any.

    Computed anew in float64: the distance of equal rows is 0, and none is below.
    """
    is_found = ranking.positions >= 0
    total = np.zeros(len(vectors))
    for column, positions in enumerate(ranking.positions.T):
        for start in range(0, len(vectors), BLOCK):
            rows = start + np.flatnonzero(is_found[start : start + BLOCK, column])
            total[rows] += 1.0 - exact_cosines(vectors[rows], vectors[positions[rows]])
    counts = is_found.sum(axis=1)
    return np.where(counts > 0, total / np.maximum(counts, 1), 2.0)
