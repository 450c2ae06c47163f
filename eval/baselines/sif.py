"""Smooth inverse frequency (Arora et al. 2017): averages weighted by rarity, without their common component."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import NDArray

from dec2vec.errors import UserError

TokenIds = Sequence[int]
SMOOTHING = 1e-3
"""Arora et al.'s a; they find 1e-4 to 1e-3 equally good."""
SAMPLE = 20_000
"""Texts that the common component is taken from."""


def token_frequencies(ids: Iterable[TokenIds], vocabulary: int) -> Float[np.ndarray, vocab]:
    """Share of each token id among all tokens, float64."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for row in ids:
        counts += np.bincount(np.asarray(row, dtype=np.int64), minlength=vocabulary)
    if not counts.any():
        raise UserError("token frequencies: the text of the fit contains no tokens; give texts that are not empty")
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def sif_vectors(
    ids: Sequence[TokenIds],
    table: Float[np.ndarray, "vocab dim"],
    frequencies: Float[np.ndarray, vocab],
    smoothing: float = SMOOTHING,
) -> NDArray[np.float32]:
    """(n, d): mean of a text's token vectors, each weighted a / (a + p(token)); zeros for a text without tokens.

    As in the paper the weighted sum is divided by the number of tokens, not by the sum of the weights.
    """
    weights = smoothing / (smoothing + frequencies)
    vectors = np.zeros((len(ids), table.shape[1]), dtype=np.float32)
    for row, tokens in enumerate(ids):
        if tokens:
            vectors[row] = weights[tokens] @ table[tokens] / len(tokens)
    return vectors


def common_component(vectors: Float32[np.ndarray, "texts dim"]) -> Float32[np.ndarray, " dim"]:
    """The first right singular vector of uncentred vectors, as in the paper's code."""
    wide = vectors.astype(np.float64)
    return np.asarray(np.linalg.eigh(wide.T @ wide)[1][:, -1], dtype=np.float32)


def without_component(
    vectors: Float32[np.ndarray, "texts dim"], component: Float32[np.ndarray, " dim"]
) -> Float32[np.ndarray, "texts dim"]:
    """Vectors less their part along `component`."""
    return np.asarray(vectors - np.outer(vectors @ component, component), dtype=np.float32)


def spread(texts: Sequence[str], most: int = SAMPLE) -> list[str]:
    """At most so many texts, evenly spaced."""
    return list(texts[:: max(1, -(-len(texts) // most))])
