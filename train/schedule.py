"""Learning rate as a pure function of the step: nothing to save, so resuming is free."""

from __future__ import annotations

import math
from typing import Literal

Decay = Literal["linear", "cosine", "constant"]


def lr_factor(step: int, total: int, warmup: float, decay: Decay) -> float:
    """Share of the peak learning rate that optimiser step `step` of `total` (counted from 0) uses.

    `warmup` is a share of the steps. Warm-up step `s` of `w` takes (s + 1) / w, so the first step
    already learns and the last warm-up step is at the peak. After it step `w + i` of `d = total - w`
    decay steps takes the curve at i / d: the first is at the peak, the last is just above zero, and
    zero itself would be step `total`, which is never run. Schedules that give warm-up step s the
    factor s / w (those of transformers) equal this one shifted by a step while warming up, and equal
    it exactly afterwards.
    """
    if total < 1 or not 0 <= step <= total:
        raise ValueError(f"step {step} is outside 0..{total}")
    warming = warmup_steps(total, warmup)
    if step < warming:
        return (step + 1) / warming
    return _decayed((step - warming) / max(1, total - warming), decay)


def warmup_steps(total: int, warmup: float) -> int:
    """Steps that warm up: the share rounded to whole steps, halves to the even one."""
    if not 0.0 <= warmup <= 1.0:
        raise ValueError(f"warmup is {warmup}; give a share of the steps between 0 and 1")
    return round(warmup * total)


def _decayed(progress: float, decay: Decay) -> float:
    if decay == "constant":
        return 1.0
    if decay == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
