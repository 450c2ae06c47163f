"""What a loss hands to the step: its value over the global batch, and what it asks of embeddings and temperature."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A global batch's mean loss and what the local texts and the temperature must change."""

    loss: Float[Tensor, ""]
    embedding_gradient: Float[Tensor, "unique dim"]
    log_temperature_gradient: Float[Tensor, ""]
