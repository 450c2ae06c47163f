"""Numbers of a bench from the times of its repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_SHARE = 1.1
"""A row is void if our gradient is further from the float32 one than this multiple of the peer's distance."""
ROUNDING = 1e-6
"""Distances below this one count as equal: both sides have rounding errors of their own, in float32 too."""
OTHER_WORK = 0.1
"""A side that is further than this from the float32 gradient computes something else, and a ratio means nothing."""


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times faster ours is: the median of the repeats' ratios, and the smallest and largest."""
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {"median": round(median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3)}


def speed(
    steps: Sequence[Mapping[str, float]], pairs: int, tokens: Sequence[int], flops: float, peaks: Sequence[float]
) -> dict[str, Any]:
    """One side's figures; `tokens` are the texts' own, the same for both sides, and `flops` what a token needs.

    `peaks` are the rates of a matrix product, in operations a second, measured right before each pair of steps.
    """
    seconds = [step["seconds"] for step in steps]
    rate = median(count / time for count, time in zip(tokens, seconds, strict=True))
    return {
        "pairs_per_second": round(median(pairs / time for time in seconds), 2),
        "tokens_per_second": round(rate, 1),
        "seconds": [round(time, 4) for time in seconds],
        "cpu_seconds": [round(step["cpu_seconds"], 4) for step in steps],
        "peak_memory_mib": round(max(step["peak_memory"] for step in steps) / 2**20),
        "memory_before_steps_mib": round(steps[0]["start_memory"] / 2**20),
        "padding_ratio": round(sum(step["differentiated"] for step in steps) / sum(tokens), 3),
        "forward_positions_per_token": round(sum(step["forward"] for step in steps) / sum(tokens), 3),
        "flops_share_of_matmul_peak": round(
            median(count * flops / time / peak for count, time, peak in zip(tokens, seconds, peaks, strict=True)), 3
        ),
    }


def agreement(sides: Mapping[str, Mapping[str, NDArray[Any]]], float32: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """How far each side's gradients of a batch are from the float32 ones, and whether that makes a row void."""
    far = {name: 1 - cosine(gradients, float32) for name, gradients in sides.items()}
    ours, theirs = far["ours"], far["peer"]
    return {
        "float32_cosine": {name: round(1 - distance, 9) for name, distance in far.items()},
        "gradient_cosine": round(cosine(sides["ours"], sides["peer"]), 6),
        "void": ours > max(LARGEST_SHARE * theirs, ROUNDING) or theirs > OTHER_WORK,
    }


def cosine(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> float:
    """Between all gradients of both sides as one vector each; 0 when they are not of the same weights."""
    if ours.keys() != theirs.keys():
        return 0.0
    left, right = (np.concatenate([side[name].ravel().astype(np.float64) for name in ours]) for side in (ours, theirs))
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))
