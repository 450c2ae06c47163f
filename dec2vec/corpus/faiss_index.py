"""FAISS indices over vectors of length 1: exact, a graph of neighbours, or cells."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64

IndexKind = Literal["flat", "hnsw", "ivf"]
HNSW_LINKS = 32
HNSW_BREADTH = 200
IVF_SHARE = 2
"""A query visits one in so many cells."""


def index_array(documents: Float32[np.ndarray, "documents dim"], kind: IndexKind) -> Any:
    """An inner-product index that holds `documents`. FAISS warns below 39 documents a cell, so cells are fewer.

    The graph of hnsw depends on the number of threads that build it: the same every time with OMP_NUM_THREADS=1.
    """
    import faiss

    n, dimension = documents.shape
    index: Any
    if kind == "flat":
        index = faiss.IndexFlatIP(dimension)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_BREADTH
    else:
        coarse = faiss.IndexFlatIP(dimension)
        cells = max(1, min(round(4 * n**0.5), n // 39))
        index = faiss.IndexIVFFlat(coarse, dimension, cells, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(1, -(-cells // IVF_SHARE))
        index.train(documents)
    index.add(documents)
    return index


def search_array(
    index: Any, queries: Float32[np.ndarray, "queries dim"], k: int
) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """Scores and positions of the k best of each query; -1 where an approximate index found fewer."""
    import faiss

    if isinstance(index, faiss.IndexHNSWFlat):
        index.hnsw.efSearch = max(HNSW_BREADTH, 2 * k)
    scores, positions = index.search(queries, k)
    return scores, positions
