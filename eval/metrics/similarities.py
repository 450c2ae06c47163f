"""Similarities of the same vectors: cosine, dot product, Euclidean and Manhattan distance; Pearson's correlation.

The headline and every choice use Spearman of cosines; the others show whether that matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Float64, Int64

from dec2vec.vectors.quantization import Ranges, hamming, to_bits
from eval.metrics.correlation import cosine_pairs

Pairs = Float[np.ndarray, "pairs dim"]


def _dot(left: Pairs, right: Pairs) -> Float64[np.ndarray, " pairs"]:
    return np.asarray(np.einsum("nd,nd->n", left, right))


def _euclid(left: Pairs, right: Pairs) -> Float64[np.ndarray, " pairs"]:
    return np.asarray(-np.linalg.norm(left - right, axis=1))


def _manhattan(left: Pairs, right: Pairs) -> Float64[np.ndarray, " pairs"]:
    return np.asarray(-np.abs(left - right).sum(axis=1))


SIMILARITIES: Mapping[str, Callable[[Pairs, Pairs], Float64[np.ndarray, " pairs"]]] = {
    "cosine": cosine_pairs,
    "dot": _dot,
    "euclid": _euclid,
    "manhattan": _manhattan,
}
"""Higher is more similar: distances are negative."""


def similarities(
    vectors: Float[np.ndarray, "texts dim"],
    left: Int64[np.ndarray, " pairs"],
    right: Int64[np.ndarray, " pairs"],
    ranges: Ranges,
) -> dict[str, Float64[np.ndarray, " pairs"]]:
    """Every similarity of each pair, in float64. Vectors are not normalised first: dot products keep lengths.

    Also the cosines after rounding to one byte a dimension (`int8`), and the signs alone (`binary`, by the number of
    dimensions in which they agree).
    """
    first, second = vectors[left].astype(np.float64), vectors[right].astype(np.float64)
    scores = {name: similarity(first, second) for name, similarity in SIMILARITIES.items()}
    rounded, bits = ranges.rounded(vectors), to_bits(vectors)
    scores["int8"] = cosine_pairs(rounded[left].astype(np.float64), rounded[right].astype(np.float64))
    scores["binary"] = -hamming(bits[left], bits[right]).astype(np.float64)
    return scores


def pearson(scores: Float64[np.ndarray, " pairs"], gold: Float64[np.ndarray, " pairs"]) -> float:
    """0 for constant scores, nan for a nan."""
    return float(pearsons(scores, gold, np.ones((1, len(gold))))[0])


def pearsons(
    scores: Float64[np.ndarray, " pairs"],
    gold: Float64[np.ndarray, " pairs"],
    weights: Float64[np.ndarray, "resamples pairs"],
) -> Float64[np.ndarray, " resamples"]:
    """Weighted correlations. Both sides are centred first: dot products can be large."""
    x, y = scores - scores.mean(), gold - gold.mean()
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    covariance = weights @ (x * y) / total - mean_x * mean_y
    spread = (weights @ (x * x) / total - mean_x**2) * (weights @ (y * y) / total - mean_y**2)
    scale = np.sqrt(np.maximum(spread, 0.0))
    return np.asarray(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale != 0))
