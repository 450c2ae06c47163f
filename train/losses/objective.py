"""What a loss returns: its value over the global batch, and its gradients at embeddings and learned constants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Objective:
    """The mean loss of a global batch, and its gradients.

    That at the embeddings is the local one. Those at log(temperature) and at the matrix of a projection into a
    teacher's space are the same on every rank.
    """

    loss: Float[Tensor, ""]
    embedding_gradient: Float[Tensor, "unique dim"]
    log_temperature_gradient: Float[Tensor, ""]
    projection_gradient: Float[Tensor, "teacher_dim projected_dim"] | None = None
    """None for a loss without a projection."""
    parts: tuple[Float[Tensor, ""], ...] = ()
    """Of a sum its losses, without their weights; empty for a single loss."""


def combine(objectives: Sequence[Objective], weights: Sequence[float]) -> Objective:
    """The weighted sum of losses over the same embeddings; gradients add up as the losses do."""
    parts = list(zip(objectives, weights, strict=True))
    projected = [part.projection_gradient * weight for part, weight in parts if part.projection_gradient is not None]
    return Objective(
        torch.stack([weight * part.loss for part, weight in parts]).sum(0),
        torch.stack([weight * part.embedding_gradient for part, weight in parts]).sum(0),
        torch.stack([weight * part.log_temperature_gradient for part, weight in parts]).sum(0),
        torch.stack(projected).sum(0) if projected else None,
    )


def nothing(embeddings: Float[Tensor, "unique dim"]) -> Objective:
    """The objective of a batch that has nothing to compare: zero, without a gradient."""
    zero = embeddings.new_zeros(())
    return Objective(zero, torch.zeros_like(embeddings), zero)


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
