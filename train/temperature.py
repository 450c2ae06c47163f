"""The number that cosines are divided by, fixed or learned."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

LOWEST_LEARNED = 0.01


class Temperature(nn.Module):
    """exp(log_temperature): positive, and its gradient has the scale of a relative change.

    A learned one stays at or above 0.01, as in CLIP (Radford et al. 2021), or where it was told to start below that.
    """

    def __init__(self, start: float, *, learned: bool) -> None:
        super().__init__()
        self._floor = math.log(min(start, LOWEST_LEARNED))
        self.log_value = nn.Parameter(torch.tensor(math.log(start)), requires_grad=learned)

    def forward(self) -> Float[Tensor, ""]:
        """The temperature that cosines are divided by."""
        return self.log_value.exp()

    @torch.no_grad()
    def hold_floor(self) -> None:
        """After an optimiser step: a temperature near 0 would turn the loss into noise of a few pairs."""
        self.log_value.clamp_(min=self._floor)
