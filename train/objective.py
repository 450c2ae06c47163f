"""What a loss hands to the step: its value over the global batch, and what it asks of embeddings and temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A global batch's mean loss and what the local texts and the temperature must change."""

    loss: Float[Tensor, ""]
    embedding_gradient: Float[Tensor, "unique dim"]
    log_temperature_gradient: Float[Tensor, ""]


def combine(objectives: Sequence[Objective], weights: Sequence[float]) -> Objective:
    """The weighted sum of losses over the same embeddings; gradients add up as the losses do."""
    parts = list(zip(objectives, weights, strict=True))
    return Objective(
        torch.stack([weight * part.loss for part, weight in parts]).sum(0),
        torch.stack([weight * part.embedding_gradient for part, weight in parts]).sum(0),
        torch.stack([weight * part.log_temperature_gradient for part, weight in parts]).sum(0),
    )


def nothing(embeddings: Float[Tensor, "unique dim"]) -> Objective:
    """The objective of a batch that holds nothing to compare."""
    zero = embeddings.new_zeros(())
    return Objective(zero, torch.zeros_like(embeddings), zero)
