"""Cosines in float64 that are exact at the ends: 1 for equal rows, and 1 for nothing else.

A product of unit vectors in float32 is wrong by about 1e-7, so that equal rows fall below 1 and other rows above it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64

TOLERANCE = 1e-4
"""More than a product in float32 is wrong by, up to some 100,000 dimensions."""
_NEARLY_ONE = 1e-12


def exact_cosines(
    left: Float[np.ndarray, "pairs dim"], right: Float[np.ndarray, "pairs dim"]
) -> Float64[np.ndarray, " pairs"]:
    """The cosine of each row with its partner; 0 for a zero row, 1 for rows of one direction only."""
    close, far = _half_squares(left, right)
    cosines = np.where(close <= far, 1.0 - close, far - 1.0)
    nearly = np.flatnonzero(cosines > 1.0 - _NEARLY_ONE)
    is_same = same_direction(left[nearly], right[nearly])
    cosines[nearly] = np.where(is_same, 1.0, np.minimum(cosines[nearly], np.nextafter(1.0, 0.0)))
    return np.asarray(np.where(left.any(axis=1) & right.any(axis=1), cosines, 0.0))


def same_direction(
    left: Float[np.ndarray, "pairs dim"], right: Float[np.ndarray, "pairs dim"]
) -> Bool[np.ndarray, " pairs"]:
    """Whether one row of float32 numbers is a positive multiple of its partner, which float64 decides exactly."""
    wide, other = left.astype(np.float64), right.astype(np.float64)
    largest = np.abs(wide).argmax(axis=1)[:, None]
    scale, factor = np.take_along_axis(other, largest, axis=1), np.take_along_axis(wide, largest, axis=1)
    return np.asarray((wide * scale == other * factor).all(axis=1) & (scale * factor > 0).ravel())


def _half_squares(
    left: Float[np.ndarray, "pairs dim"], right: Float[np.ndarray, "pairs dim"]
) -> tuple[Float64[np.ndarray, " pairs"], Float64[np.ndarray, " pairs"]]:
    """Half of the squared distance of the unit rows, and the same from the opposite of the second one."""
    one, two = _unit(left), _unit(right)
    return ((one - two) ** 2).sum(axis=1) / 2, ((one + two) ** 2).sum(axis=1) / 2


def _unit(vectors: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows dim"]:
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, norms, out=np.zeros_like(wide), where=norms != 0))
