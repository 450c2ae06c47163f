"""Exact search for the nearest documents by cosine, block by block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64

from dec2vec.errors import UserError
from dec2vec.vectors.averaging import unit_rows

BLOCK = 256
"""Number of queries that are scored together."""
DOCUMENT_BLOCK = 65_536
"""Number of documents that are scored together: with BLOCK queries, 64 MB of scores."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """For each query, the positions of documents and their scores, best first."""

    positions: Int64[np.ndarray, "queries k"]
    scores: Float32[np.ndarray, "queries k"]


def exact_top(
    queries: Float32[np.ndarray, "queries dim"],
    documents: Float32[np.ndarray, "documents dim"],
    k: int,
    *,
    block: int = BLOCK,
    document_block: int = DOCUMENT_BLOCK,
) -> Ranking:
    """The k documents with the largest cosines for each query. Of equal ones the earlier document comes first.

    There are fewer than k columns if there are fewer documents. UserError for k < 1, or without documents.
    """
    k = usable_k(k, len(documents))
    return largest_products(searchable_rows(queries), searchable_rows(documents), k, block, document_block)


def largest_products(
    queries: Float32[np.ndarray, "queries dim"],
    documents: Float32[np.ndarray, "documents dim"],
    k: int,
    block: int = BLOCK,
    document_block: int = DOCUMENT_BLOCK,
) -> Ranking:
    """`exact_top` of rows that have length 1 already."""
    positions = np.empty((len(queries), k), dtype=np.int64)
    scores = np.empty((len(queries), k), dtype=np.float32)
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        positions[rows], scores[rows] = _top_of_block(queries[rows], documents, k, document_block)
    return Ranking(positions, scores)


def recall_against(approximate: Ranking, exact: Ranking) -> float:
    """Mean fraction of the exact top k that was found."""
    hits = (approximate.positions[:, :, None] == exact.positions[:, None, :]).any(axis=1)
    return float(hits.mean())


def searchable_rows(vectors: Float[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
    """Rows scaled to length 1. Raises UserError for inf and nan, which have no neighbours."""
    if not np.isfinite(vectors).all():
        raise UserError("vectors contain inf or nan, so they have no neighbours; encode in float32 (model.dtype)")
    return unit_rows(vectors, wide=True)


def usable_k(k: int, documents: int) -> int:
    if k < 1:
        raise UserError(f"k {k}: a search needs k of at least 1")
    if documents == 0:
        raise UserError("there are no documents to search")
    return min(k, documents)


def _top_of_block(
    queries: Float32[np.ndarray, "queries dim"], documents: Float32[np.ndarray, "documents dim"], k: int, step: int
) -> tuple[Int64[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
    """The k best documents. The best so far come before those of the next block, so that ties stay in order."""
    positions = np.empty((len(queries), 0), dtype=np.int64)
    scores = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(documents), step):
        fresh = queries @ documents[start : start + step].T
        columns = _best(fresh, k)
        positions = np.concatenate([positions, start + columns], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(fresh, columns, axis=1)], axis=1)
        order = _best(scores, k)
        positions, scores = np.take_along_axis(positions, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return positions, scores


def _best(scores: Float32[np.ndarray, "queries candidates"], k: int) -> Int64[np.ndarray, "queries kept"]:
    """The columns of the k largest scores, best first. Only scores that reach the k-th largest are sorted."""
    k = min(k, scores.shape[1])
    least = np.partition(scores, -k, axis=1)[:, -k]
    columns = np.empty((len(scores), k), dtype=np.int64)
    for row, (line, bound) in enumerate(zip(scores, least, strict=True)):
        reached = np.flatnonzero(line >= bound)
        columns[row] = reached[np.argsort(-line[reached], kind="stable")[:k]]
    return columns
