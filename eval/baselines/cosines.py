"""Sparse vectors where dense ones are wanted, and their cosines where they are not."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from scipy.sparse import csr_matrix, vstack

from eval.baselines.baseline import Vectors
from eval.metrics.correlation import cosine_pairs

DENSE_BYTES = 2 * 2**30
"""Beyond this, sparse vectors are projected instead of spread out."""
PROJECTED = 4096
"""Dimensions of that projection: cosines keep a standard deviation of at most 1/64."""
logger = logging.getLogger(__name__)


def cosines(left: Vectors, right: Vectors) -> Float64[np.ndarray, " pairs"]:
    """Cosine of each row with its partner, dense or sparse; 0 for a zero vector.

    Rounded to 12 decimals as those of dense vectors are: equal texts tie.
    """
    if not (isinstance(left, csr_matrix) and isinstance(right, csr_matrix)):
        return cosine_pairs(np.asarray(left), np.asarray(right))
    one, other = left.astype(np.float64), right.astype(np.float64)
    products = np.asarray(one.multiply(other).sum(axis=1)).ravel()
    norms = np.sqrt(_squares(one) * _squares(other))
    found = np.divide(products, norms, out=np.zeros_like(products), where=norms != 0)
    return np.asarray(np.clip(found, -1.0, 1.0).round(12))


def dense(
    queries: Vectors, documents: Vectors
) -> tuple[Float32[np.ndarray, "queries dim"], Float32[np.ndarray, "documents dim"]]:
    """Both sides as arrays whose cosines are those of the sparse vectors.

    Words in no text of either side are left out, which changes no cosine. Only where that is still more than 2 GiB
    are they projected at random to 4096 dimensions, which the log says.
    """
    if not (isinstance(queries, csr_matrix) and isinstance(documents, csr_matrix)):
        return np.asarray(queries), np.asarray(documents)
    both: Any = _known_words(queries, documents)
    if is_too_wide(queries, documents):
        both = _projected(both)
    spread = np.asarray(both.toarray(), dtype=np.float32)
    return spread[: queries.shape[0]], spread[queries.shape[0] :]


def is_too_wide(queries: Vectors, documents: Vectors) -> bool:
    """Whether `dense` projects."""
    if not (isinstance(queries, csr_matrix) and isinstance(documents, csr_matrix)):
        return False
    both = _known_words(queries, documents)
    return both.shape[0] * both.shape[1] * 4 > DENSE_BYTES and both.shape[1] > PROJECTED


def _known_words(queries: csr_matrix, documents: csr_matrix) -> csr_matrix:
    both: Any = vstack([queries, documents], format="csr")
    return csr_matrix(both[:, np.unique(both.indices)])


def _squares(rows: csr_matrix) -> Float64[np.ndarray, " rows"]:
    return np.asarray(rows.multiply(rows).sum(axis=1), dtype=np.float64).ravel()


def _projected(rows: csr_matrix) -> csr_matrix:
    from sklearn.random_projection import SparseRandomProjection

    logger.warning("%d x %d sparse vectors are projected to %d dimensions", *rows.shape, PROJECTED)
    projection = SparseRandomProjection(n_components=PROJECTED, random_state=0)
    return csr_matrix(projection.fit_transform(rows))
