"""Matryoshka (Kusupati et al. 2022): the first dimensions of a vector are an embedding of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dec2vec.errors import UserError
from train.losses.objective import Objective, combine
from train.options.losses import LossConfig


def nested(
    embeddings: Float[Tensor, "unique dim"],
    weights: Mapping[int, float],
    objective: Callable[[Float[Tensor, "unique part"]], Objective],
) -> Objective:
    """The weighted sum of a loss over the first n dimensions, for each n: one forward pass, gradients summed."""
    width = embeddings.shape[1]
    parts = [objective(embeddings[:, :size].contiguous()) for size in weights]
    padded = [_padded(part, width - size) for part, size in zip(parts, weights, strict=True)]
    return combine(padded, list(weights.values()))


def _padded(part: Objective, missing: int) -> Objective:
    """The same with a gradient of zero at the dimensions that the loss has not seen."""
    matrix = part.projection_gradient
    return replace(
        part,
        embedding_gradient=F.pad(part.embedding_gradient, (0, missing)),
        projection_gradient=None if matrix is None else F.pad(matrix, (0, missing)),
    )


def dimension_weights(config: LossConfig, width: int) -> dict[int, float]:
    """Weight of each number of dimensions; all of them are always among these, with 1 where not listed."""
    check_width(config, width)
    weights = config.matryoshka_weights or (1.0,) * len(config.matryoshka)
    return {width: 1.0} | dict(zip(config.matryoshka, weights, strict=True))


def check_width(config: LossConfig, width: int) -> None:
    """Refuse more dimensions than the vectors have."""
    if config.matryoshka and max(config.matryoshka) > width:
        raise UserError(
            f"loss.matryoshka {max(config.matryoshka)}: the vectors have {width} dimensions; list {width} or fewer"
        )
