"""Similarities of text pairs that ranking losses compare. Pure."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def cosine(first: Float[Tensor, "pair dim"], second: Float[Tensor, "pair dim"]) -> Float[Tensor, pair]:
    """Cosine of each pair."""
    return (F.normalize(first, dim=1) * F.normalize(second, dim=1)).sum(1)


def angle(first: Float[Tensor, "pair dim"], second: Float[Tensor, "pair dim"]) -> Float[Tensor, pair]:
    """AnglE's similarity (Li & Li 2024, eq. 5 to 7): |sum of real and imaginary parts| of first / second.

    The halves of a unit vector are the real and imaginary parts of d/2 complex numbers. Unlike the cosine, it still
    has a slope where two vectors all but agree. A vector of odd length gets a zero at its end.
    """
    padded = (F.pad(F.normalize(side, dim=1), (0, side.shape[1] % 2)) for side in (first, second))
    (a, b), (c, d) = (side.chunk(2, dim=1) for side in padded)
    return (a * c + b * d + b * c - a * d).sum(1).abs()
