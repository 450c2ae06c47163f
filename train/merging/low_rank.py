"""Weighted sums of low-rank updates B A, exact or truncated to a rank.

Averaging A and B separately does not average the update: mean(B) mean(A) is not mean(B A). The exact sum concatenates
the factors, [c1 B1, c2 B2] [A1; A2]; its rank is the sum of the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import pad

PARALLEL = 1e-6
"""Sine of the angle below which two vectors count as parallel."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """The update B A of one matrix. B includes the scale."""

    a: Float64[Tensor, "rank inputs"]
    b: Float64[Tensor, "outputs rank"]

    @property
    def rank(self) -> int:
        return len(self.a)


def inner(one: LowRank, other: LowRank) -> float:
    """Inner product of both updates, computed without the dense matrices."""
    return float(((one.b.T @ other.b) * (one.a @ other.a.T)).sum())


def weighted_sum(changes: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """The exact sum of weights_i B_i A_i."""
    return LowRank(
        a=torch.cat([change.a for change in changes]),
        b=torch.cat([weight * change.b for change, weight in zip(changes, weights, strict=True)], dim=1),
    )


def truncate(change: LowRank, rank: int) -> tuple[LowRank, float]:
    """The nearest update of that rank (Eckart & Young 1936), and the squared distance to it.

    A matrix too small for the rank gets rows and columns of zeros, since PEFT needs one rank for all modules.
    """
    left, left_triangle = torch.linalg.qr(change.b)
    right, right_triangle = torch.linalg.qr(change.a.T)
    u, sizes, vh = torch.linalg.svd(left_triangle @ right_triangle.T)
    roots = sizes[:rank].sqrt()
    missing = rank - len(roots)
    cut = LowRank(
        a=pad(roots[:, None] * (vh[:rank] @ right.T), (0, 0, 0, missing)),
        b=pad(left @ u[:, :rank] * roots, (0, missing)),
    )
    return cut, float((sizes[rank:] ** 2).sum())


def slerp_weights(square_one: float, square_other: float, product: float, fraction: float) -> tuple[float, float]:
    """Weights of two vectors for the point at `fraction` of the arc between them (Shoemake 1985).

    The arguments are their squared lengths and their inner product. Parallel or zero vectors are averaged.
    """
    lengths = math.sqrt(square_one * square_other)
    if lengths == 0:
        return 1 - fraction, fraction
    angle = math.acos(max(-1.0, min(1.0, product / lengths)))
    if math.sin(angle) < PARALLEL:
        return 1 - fraction, fraction
    return math.sin((1 - fraction) * angle) / math.sin(angle), math.sin(fraction * angle) / math.sin(angle)
