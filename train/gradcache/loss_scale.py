"""The loss scale of float16 (Micikevicius et al. 2018): gradients are multiplied by it, so small ones are not lost.

float16 holds nothing below 6e-8. The gradient at the embeddings is multiplied by the scale before it is propagated
through the decoder, and the gradients of the weights are divided by it. A step whose gradients overflow is skipped, and
the scale halved; after many good steps it is doubled. The numbers are those of `torch.amp.GradScaler`, which itself
needs a loss to multiply, and gradient caching has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

FIRST = 65536.0
GROWTH_INTERVAL = 2000
"""Good steps in a row after which the scale is doubled."""
SMALLEST = 1.0
"""A gradient that is not finite at this scale did not overflow: it is wrong."""


@dataclass(frozen=True)
class LossScale:
    """The scale, and the number of steps in a row that it has suited."""

    value: float = FIRST
    good_steps: int = 0

    def after(self, *, overflowed: bool) -> LossScale:
        """The scale of the next step."""
        if overflowed:
            return LossScale(self.value / 2)
        if self.good_steps + 1 == GROWTH_INTERVAL:
            return LossScale(self.value * 2)
        return LossScale(self.value, self.good_steps + 1)


@torch.no_grad()
def unscale(weights: Iterable[Tensor], scale: float) -> None:
    """Divide the gradients of these weights by the scale; a power of two, so nothing is rounded."""
    if scale != 1.0:
        for weight in weights:
            if weight.grad is not None:
                weight.grad.div_(scale)
