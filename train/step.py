"""One optimiser step, from top to bottom as the algorithm reads."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from train.config import LossConfig, OptimConfig
from train.data.batch import LocalBatch
from train.distributed.collectives import sum_over_ranks, world_size
from train.distributed.deepspeed import reduced_once
from train.gradcache.cached_step import cached_step
from train.losses.compute import compute_loss
from train.losses.objective import Objective
from train.optim import Learner, clip_gradients, lr_factor


@dataclass(frozen=True)
class StepResult:
    """What a step found. `applied` is False when loss or gradient was not finite and nothing was changed."""

    loss: float
    grad_norm: float
    lr: float
    temperature: float
    applied: bool
    embedded_at: float
    """time.monotonic() when this rank's vectors were ready, before it waited for another."""


def train_step(
    learner: Learner,
    batch: LocalBatch,
    step: int,
    loss: LossConfig,
    optim: OptimConfig,
    *,
    graph_tokens: int,
    seed: int,
    parallel: bool = False,
) -> StepResult:
    """Step `step` (from 0) on this rank's share of the global batch."""
    seed_dropout(seed, step)
    lr = optim.lr * lr_factor(step, learner.total_steps, optim.warmup, optim.decay)
    for group in learner.optimizer.param_groups:
        group["lr"] = lr

    timed = Timed(
        partial(
            compute_loss,
            rows=batch.rows,
            teachers=batch.teachers,
            losses=batch.losses or (loss,),
            temperature=learner.temperature,
        )
    )
    with reduced_once(learner.optimizer):
        objective = cached_step(
            learner.model, batch.chunks, timed, graph_tokens=graph_tokens, prefix=batch.prefix, parallel=parallel
        )
    norm = clip_gradients(learner, optim.max_grad_norm)
    if learner.temperature.log_value.requires_grad:
        learner.temperature.log_value.grad = objective.log_temperature_gradient.clone()

    temperature = float(learner.temperature().detach())
    value, grad_norm = float(objective.loss), float(norm)  # host sync
    finite = all(map(math.isfinite, (value, grad_norm, float(objective.log_temperature_gradient))))
    if finite:
        learner.optimizer.step()
        learner.temperature.hold_floor()
    learner.optimizer.zero_grad(set_to_none=True)
    return StepResult(value, grad_norm, lr, temperature, finite, timed.called)


def seed_dropout(seed: int, step: int) -> None:
    """Dropout's randomness is a function of seed, step and rank, so a resumed run needs no stored generator."""
    rank = torch.distributed.get_rank() if world_size() > 1 else 0
    torch.manual_seed(((seed * 1_000_003 + step) * 4_099 + rank) % 2**63)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any rank; every rank gets the same answer."""
    return bool(sum_over_ranks(torch.tensor(int(flag), device=device)))


class Timed:
    """The objective of a step, noting when it is called: when this rank's vectors are ready."""

    def __init__(self, objective: Callable[[Float[Tensor, "unique dim"]], Objective]) -> None:
        self._objective = objective
        self.called = time.monotonic()

    def __call__(self, embeddings: Float[Tensor, "unique dim"]) -> Objective:
        if embeddings.is_cuda and world_size() > 1:
            torch.cuda.synchronize(embeddings.device)  # the first gather would wait for it all the same
        self.called = time.monotonic()
        return self._objective(embeddings)
