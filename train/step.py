"""One optimizer step, from top to bottom as the algorithm reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from train.config import TrainConfig
from train.data.batch import LocalBatch
from train.distributed.collectives import world_size
from train.gradcache.cached_step import cached_step
from train.gradcache.chunk_passes import Room
from train.losses.compute import by_kind, compute_loss
from train.losses.objective import Objective
from train.optim import Learner, learning_rate


@dataclass(frozen=True)
class StepResult:
    """The numbers of a step. `applied` is False if the loss or a gradient was not finite, and nothing was changed."""

    loss: float
    grad_norm: float
    lr: float
    temperature: float
    applied: bool
    embedded_at: float
    """time.monotonic() when this rank's vectors were ready, before it waited for another rank."""
    parts: Mapping[str, float]
    """Of a sum of losses, each by its kind, without its weight."""


def train_step(
    learner: Learner,
    batch: LocalBatch,
    step: int,
    config: TrainConfig,
    *,
    graph_tokens: int,
    room: Room | None = None,
    scale: float = 1.0,
) -> StepResult:
    """Optimizer step number `step`, from 0, on this rank's part of the batch; `scale` is the loss scale of float16."""
    learner.optimizer.zero_grad()  # what a failed attempt has left
    seed_dropout(config.seed, step)
    lr = learning_rate(step, learner.total_steps, config.optim)
    learner.optimizer.set_learning_rate(lr)
    temperature = float(learner.temperature().detach())
    with learner.optimizer.one_reduction():
        options: dict[str, Any] = {"graph_tokens": graph_tokens, "room": room, "prefix": batch.prefix, "scale": scale}
        result = cached_step(learner.model, batch.chunks, batch_loss(learner, batch, config), **options)
    learner.unscale(scale)
    norm = learner.optimizer.clip()

    numbers = [result.loss, norm, result.log_temperature_gradient, _length(result.projection_gradient), *result.parts]
    value, grad_norm, slope, length, *parts = map(float, numbers)  # waits for the device
    is_finite = all(map(math.isfinite, (value, grad_norm, slope, length)))
    if is_finite:
        learner.update(result.log_temperature_gradient, result.projection_gradient)
    learner.optimizer.zero_grad()
    by_kinds = by_kind(batch.losses or (config.loss,), parts)
    return StepResult(value, grad_norm, lr, temperature, is_finite, result.embedded_at, by_kinds)


def _length(gradient: Tensor | None) -> Tensor | float:
    return 0.0 if gradient is None else gradient.norm()


def batch_loss(learner: Learner, batch: LocalBatch, config: TrainConfig) -> Callable[[Tensor], Objective]:
    """The losses of a batch, as a function of the vectors of its texts."""

    def loss(embeddings: Float[Tensor, "unique dim"]) -> Objective:
        inputs, losses = batch.loss_inputs, batch.losses or (config.loss,)
        return compute_loss(embeddings, inputs, losses, learner.temperature, batch.teachers, learner.matrix)

    return loss


def seed_dropout(seed: int, step: int) -> None:
    """Make dropout's randomness a function of seed, step and rank, so that a resumed run needs no stored generator."""
    rank = torch.distributed.get_rank() if world_size() > 1 else 0
    torch.manual_seed(((seed * 1_000_003 + step) * 4_099 + rank) % 2**63)
