"""FAISS indices of vectors of length 1: flat (exact), hnsw (a graph of neighbours), ivf (cells)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int64

from dec2vec.corpus.exact_search import Ranking, exact_top, largest_products, searchable_rows, usable_k
from dec2vec.corpus.vector_files import StoredVectors
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_path, written

IndexKind = Literal["flat", "hnsw", "ivf"]
HNSW_LINKS = 32
HNSW_BREADTH = 200
IVF_SHARE = 2
"""A query visits one cell in this number."""


@dataclass(frozen=True, eq=False)
class ExactIndex:
    """Takes the place of FAISS's flat index where faiss is not installed."""

    documents: Float32[np.ndarray, "documents dim"]

    def search(
        self, queries: Float32[np.ndarray, "queries dim"], k: int
    ) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
        """Scores and positions of the k best of each query, as FAISS returns them."""
        ranking = largest_products(queries, self.documents, k)
        return ranking.scores, ranking.positions


def index_array(documents: Float32[np.ndarray, "documents dim"], kind: IndexKind) -> Any:
    """An inner-product index that holds `documents`; the flat one does without faiss if it is not installed.

    FAISS warns below 39 documents a cell, so cells are fewer. The graph of hnsw depends on the number of threads that
    build it: it is the same every time with OMP_NUM_THREADS=1.
    """
    if kind == "flat" and find_spec("faiss") is None:
        return ExactIndex(documents)
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
    if isinstance(index, ExactIndex):
        return index.search(queries, k)
    import faiss

    if isinstance(index, faiss.IndexHNSWFlat):
        index.hnsw.efSearch = max(HNSW_BREADTH, 2 * k)
    scores, positions = index.search(queries, k)
    return scores, positions


RECALL: dict[IndexKind, float] = {"flat": 0.999, "hnsw": 0.95, "ivf": 0.9}
"""Least fraction of the exact top k that each index finds in the tests. Flat differs in ties and rounding only."""


def faiss_top(
    queries: Float32[np.ndarray, "queries dim"],
    documents: Float32[np.ndarray, "documents dim"],
    k: int,
    kind: IndexKind = "flat",
) -> Ranking:
    """`exact_top` by FAISS. The position is -1 if an approximate index finds fewer than k documents."""
    k = usable_k(k, len(documents))
    scores, positions = search_array(index_array(searchable_rows(documents), kind), searchable_rows(queries), k)
    return Ranking(positions, scores)


Kind = Literal["flat", "hnsw", "ivf-pq"]
PER_CENTRE = 39
"""Least number of vectors per centre of k-means, below which FAISS warns."""
FEWEST = PER_CENTRE * 16
TRAINED_ON = 256
"""Most vectors per cell that k-means is trained on."""
CODE_BYTES = 64
"""Most bytes of a vector in ivf-pq."""
_CODED_BLOCK = 1024
"""Number of queries whose hits are decoded at a time."""


def build_index(vectors: StoredVectors, kind: Kind, *, code_bytes: int | None = None, seed: int = 0) -> Any:
    """A FAISS index of inner products of unit vectors, filled block by block. UserError for too few vectors."""
    import faiss

    if kind == "flat":
        index: Any = faiss.IndexFlatIP(vectors.dimension)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(vectors.dimension, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = index.hnsw.efSearch = HNSW_BREADTH
    else:
        index = _trained(vectors, code_bytes, seed)
    for _, block in vectors.blocks():
        index.add(searchable_rows(block))
    return index


def search_index(index: Any, queries: Float32[np.ndarray, "queries dim"], k: int) -> Ranking:
    """The k best rows for each query; -1 if an approximate index finds fewer.

    ivf-pq stores codes, and its products with them can exceed 1. They are divided by the length of the vector that a
    code stands for: a cosine, but of that vector.
    """
    queries, k = searchable_rows(queries), min(k, index.ntotal)
    if stores_codes(index):
        blocks = [_coded_top(index, queries[at : at + _CODED_BLOCK], k) for at in range(0, len(queries), _CODED_BLOCK)]
        positions, scores = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    else:
        scores, positions = index.search(queries, k)
    return Ranking(positions, np.where(positions >= 0, scores.clip(-1, 1), scores))


def stores_codes(index: Any) -> bool:
    """Whether the index is ivf-pq, whose cosines are approximate."""
    import faiss

    return isinstance(index, faiss.IndexIVFPQ)


def _coded_top(
    index: Any, queries: Float32[np.ndarray, "queries dim"], k: int
) -> tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
    """Positions and scores, sorted by the cosine with the vectors that the codes stand for."""
    products, positions, vectors = index.search_and_reconstruct(queries, k)
    lengths = np.linalg.norm(vectors, axis=2)
    scores = np.where((positions >= 0) & (lengths > 0), products / np.where(lengths > 0, lengths, 1), products)
    order = np.argsort(np.where(positions >= 0, -scores, np.inf), axis=1, kind="stable")
    return np.take_along_axis(positions, order, 1), np.take_along_axis(scores, order, 1).astype(np.float32)


def sample_recall(index: Any, vectors: StoredVectors, *, k: int = 10, sample: int = 100, seed: int = 0) -> float:
    """Fraction of the exact k nearest neighbours that the index finds, for `sample` rows drawn from the corpus.

    A row is not its own neighbour. If equal vectors compete for the last rank, any of them counts.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:sample]).astype(np.int64)
    queries, depth = vectors.take(rows), min(k + 1, len(vectors))
    exact = without_self(exact_over_blocks(queries, vectors, depth), rows)
    approximate = without_self(search_index(index, queries, depth), rows)
    if not exact.scores.shape[1]:
        return 1.0
    reached = _cosines_of(approximate.positions, queries, vectors) >= exact.scores[:, -1:] - 1e-6
    return float(reached.mean())


def without_self(ranking: Ranking, rows: Int64[np.ndarray, " queries"]) -> Ranking:
    """Neighbours without the row itself, or without the last one if equal rows have displaced the row itself."""
    is_itself = ranking.positions == rows[:, None]
    is_itself[~is_itself.any(axis=1), -1] = True
    shape = (len(rows), ranking.positions.shape[1] - 1)
    return Ranking(ranking.positions[~is_itself].reshape(shape), ranking.scores[~is_itself].reshape(shape))


def exact_over_blocks(queries: Float32[np.ndarray, "queries dim"], vectors: StoredVectors, k: int) -> Ranking:
    """`exact_top` with one block of documents in memory at a time."""
    positions = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for first, block in vectors.blocks():
        fresh = exact_top(queries, block, k)
        positions = np.concatenate([positions, fresh.positions + first], axis=1)
        scores = np.concatenate([scores, fresh.scores], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        positions, scores = np.take_along_axis(positions, order, 1), np.take_along_axis(scores, order, 1)
    return Ranking(positions, scores)


def write_index(index: Any, path: Path) -> None:
    """Write an index. After a crash the file is the old one or the new one."""
    import faiss

    with written(path), atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))


def read_index(path: Path) -> Any:
    """Read an index. UserError for any other file."""
    import faiss

    if not path.is_file():
        raise UserError(f"{path}: {'a folder' if path.is_dir() else 'does not exist'}; write it with `dec2vec index`")
    try:
        return faiss.read_index(str(path))
    except RuntimeError:
        raise UserError(f"{path}: not a readable FAISS index; write it with `dec2vec index`") from None


def _trained(vectors: StoredVectors, code_bytes: int | None, seed: int) -> Any:
    """An ivf-pq index whose cells and codes are trained on a sample."""
    import faiss

    n, dimension = len(vectors), vectors.dimension
    if n < FEWEST:
        raise UserError(
            f"{vectors.name}: ivf-pq needs at least {FEWEST} vectors, but there are {n}; use --kind flat or hnsw"
        )
    cells = max(1, min(round(4 * n**0.5), n // PER_CENTRE))
    bits = min(8, int(np.log2(n / PER_CENTRE)))
    index: Any = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(dimension),
        dimension,
        cells,
        _code_size(dimension, code_bytes),
        bits,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.nprobe = min(cells, max(8, cells // 8))
    wanted = min(n, TRAINED_ON * max(cells, 256))
    rows = np.random.default_rng(seed).permutation(n)[:wanted].astype(np.int64)
    index.train(searchable_rows(vectors.take(rows)))
    return index


def _code_size(dimension: int, wanted: int | None) -> int:
    """The number of bytes per code, which has to divide the dimension: `wanted`, or the largest that is allowed."""
    if wanted is not None:
        if dimension % wanted:
            fitting = ", ".join(str(m) for m in range(1, dimension + 1) if dimension % m == 0)
            raise UserError(f"code_bytes {wanted} does not divide the dimension {dimension}; use one of {fitting}")
        return wanted
    limit = min(CODE_BYTES, max(1, dimension // 2))
    return max(m for m in range(1, limit + 1) if dimension % m == 0)


def _cosines_of(
    positions: Int64[np.ndarray, "queries k"], queries: Float32[np.ndarray, "queries dim"], vectors: StoredVectors
) -> Float32[np.ndarray, "queries k"]:
    """The exact cosines of the rows at `positions`; -1 for position -1."""
    unique = np.unique(positions[positions >= 0])
    if not len(unique):
        return np.full(positions.shape, -1, dtype=np.float32)
    rows = searchable_rows(vectors.take(unique))
    cosines = np.einsum(
        "qd,qkd->qk", searchable_rows(queries), rows[np.searchsorted(unique, positions.clip(unique[0]))]
    )
    return np.where(positions >= 0, cosines, -1).astype(np.float32)
