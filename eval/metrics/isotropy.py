"""How evenly vectors use their space: figures of one array of vectors, and of pairs that mean the same.

Each is a function of the rows as given: nothing is sampled. `weights` counts how often a row is drawn (bootstrap).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

BLOCK = 512
"""Rows compared with all others at once."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Variance along each principal direction, largest first; `squares` are each row's share in it (rows, directions).

    A resample's variances along these same directions are averages of `squares`: first-order perturbation theory.
    """

    variances: Float64[np.ndarray, " directions"]
    squares: Float64[np.ndarray, "rows directions"]
    dimension: int
    """Of the vectors. There are no more directions than rows: in all others the variance is 0."""


def spectrum(vectors: Float[np.ndarray, "rows dim"]) -> Spectrum:
    """Of the covariance (divisor n). Of few rows the matrix of their inner products says the same (19,000 n-grams)."""
    wide = vectors.astype(np.float64)
    centred = wide - wide.mean(axis=0)
    rows, dimension = centred.shape
    if dimension <= rows:
        _, directions = np.linalg.eigh(centred.T @ centred)
        squares = (centred @ directions[:, ::-1]) ** 2
    else:
        values, directions = np.linalg.eigh(centred @ centred.T)
        squares = directions[:, ::-1] ** 2 * np.maximum(values[::-1], 0)
    return Spectrum(squares.mean(axis=0), squares, dimension)


def compact(vectors: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows kept"]:
    """Rows of the same inner products in no more dimensions than rows: what compares rows needs no more."""
    wide = vectors.astype(np.float64)
    if wide.shape[1] <= len(wide):
        return wide
    values, directions = np.linalg.eigh(wide @ wide.T)
    rows = directions * np.sqrt(np.maximum(values, 0))
    rows[~wide.any(axis=1)] = 0  # not 1e-17, which would get a direction once it is divided by its norm
    return np.asarray(rows)


def mean_cosine(vectors: Float[np.ndarray, "rows dim"]) -> float:
    """Expected cosine of two different rows drawn at random: exact, from the sum of the unit vectors."""
    return float(mean_cosines(vectors, np.ones((1, len(vectors))))[0])


def isoscore(
    variances: Float64[np.ndarray, "*batch directions"], dimension: int | None = None
) -> Float64[np.ndarray, "*batch"]:
    """IsoScore (Rudman et al. 2022, ACL Findings): 1 for equal variances, 0 for variance in one direction only.

    The defect is the distance of the variances, scaled to norm sqrt(n), from the ones vector, over its largest value;
    the score is the share of directions used, moved from [1/n, 1] to [0, 1]. nan without variance or with n = 1.
    `dimension` is n where directions without variance were left out.
    """
    n = dimension or variances.shape[-1]
    norms = np.linalg.norm(variances, axis=-1, keepdims=True)
    if n == 1:
        return np.full(variances.shape[:-1], np.nan)
    scaled = np.sqrt(n) * _ratio(variances, norms)
    distance = np.sqrt(((scaled - 1) ** 2).sum(axis=-1) + n - variances.shape[-1])
    defect = distance / np.sqrt(2 * (n - np.sqrt(n)))
    share = (n - defect**2 * (n - np.sqrt(n))) ** 2 / n**2
    return np.asarray((n * share - 1) / (n - 1))


def effective_rank(variances: Float64[np.ndarray, "*batch directions"]) -> Float64[np.ndarray, "*batch"]:
    """exp of the entropy of the normalised singular values of the centred rows (Roy & Vetterli 2007).

    n for equal variances, 1 for a single direction, nan without variance.
    """
    singular = np.sqrt(variances)
    shares = _ratio(singular, singular.sum(axis=-1, keepdims=True))
    logarithms = np.log(shares, out=np.zeros_like(shares), where=(shares > 0) | np.isnan(shares))
    return np.asarray(np.exp(-(shares * logarithms).sum(axis=-1)))


def first_share(variances: Float64[np.ndarray, "*batch directions"]) -> Float64[np.ndarray, "*batch"]:
    """Share of the variance along the first principal direction; nan without variance."""
    return np.asarray(_ratio(variances, variances.sum(axis=-1, keepdims=True))[..., 0])


def alignment(left: Float[np.ndarray, "pairs dim"], right: Float[np.ndarray, "pairs dim"]) -> float:
    """Mean squared distance of unit vectors of one meaning, 0 to 4 (Wang & Isola 2020, alpha 2); lower is better."""
    return float(squared_distances(left, right).mean())


def squared_distances(
    left: Float[np.ndarray, "pairs dim"], right: Float[np.ndarray, "pairs dim"]
) -> Float64[np.ndarray, " pairs"]:
    """Of unit vectors, pair by pair."""
    return np.asarray(((_unit(left) - _unit(right)) ** 2).sum(axis=1))


def uniformity(vectors: Float[np.ndarray, "rows dim"]) -> float:
    """log of the mean of exp(-2 squared distance) over all pairs of unit rows (Wang & Isola 2020); lower is better."""
    return float(uniformities(vectors, np.ones((1, len(vectors))))[0])


def mean_cosines(
    vectors: Float[np.ndarray, "rows dim"], weights: Float64[np.ndarray, "resamples rows"]
) -> Float64[np.ndarray, " resamples"]:
    """`mean_cosine` of each resample. A row is never paired with its own copies, which no random pair of texts is."""
    unit = _unit(vectors)
    same = (weights**2 * (unit**2).sum(axis=1)).sum(axis=1)
    together = ((weights @ unit) ** 2).sum(axis=1) - same
    return _ratio(together, _pairs(weights))


def uniformities(
    vectors: Float[np.ndarray, "rows dim"], weights: Float64[np.ndarray, "resamples rows"]
) -> Float64[np.ndarray, " resamples"]:
    """`uniformity` of each resample, block by block; again without a row's own copies."""
    unit = _unit(vectors)
    squares = (unit**2).sum(axis=1)
    total = np.zeros(len(weights))
    for start in range(0, len(unit), BLOCK):
        rows = slice(start, start + BLOCK)
        distances = np.maximum(squares[rows, None] + squares - 2 * unit[rows] @ unit.T, 0)
        kernel = np.exp(-2 * distances)
        kernel[np.arange(len(kernel)), start + np.arange(len(kernel))] = 0
        total += ((weights[:, rows] @ kernel) * weights).sum(axis=1)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(_ratio(total, _pairs(weights))))


def _pairs(weights: Float64[np.ndarray, "resamples rows"]) -> Float64[np.ndarray, " resamples"]:
    return np.asarray(weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1))


def _unit(vectors: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows dim"]:
    """float64; a zero row stays zero."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, norms, out=np.zeros_like(wide), where=norms != 0))


def _ratio(over: Float64[np.ndarray, "*shape"], under: Float64[np.ndarray, "*other"]) -> Float64[np.ndarray, "*shape"]:
    """nan where nothing is below the line."""
    wide = np.broadcast_to(under, over.shape)
    return np.asarray(np.divide(over, wide, out=np.full(over.shape, np.nan), where=wide != 0))
