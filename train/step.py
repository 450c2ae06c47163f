"""One optimiser step, from top to bottom as the algorithm reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from train.adapters.lora import trainable_parameters
from train.config import LossConfig, OptimConfig
from train.data.batch import LocalBatch
from train.distributed.collectives import sum_over_ranks, world_size
from train.distributed.deepspeed import DeepSpeedAdamW, reduced_once
from train.distributed.engine import Model
from train.distributed.sharded import whole
from train.gradcache.cached_step import cached_step
from train.losses.compute import compute_loss
from train.losses.objective import Temperature
from train.pace import Timed
from train.schedule import lr_factor


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


@dataclass(frozen=True)
class Learner:
    """What a step changes: the model, the temperature, and the optimiser over both."""

    model: Model
    temperature: Temperature
    optimizer: Optimizer | DeepSpeedAdamW
    total_steps: int


def make_optimizer(model: Model, temperature: Temperature, config: OptimConfig) -> AdamW:
    """AdamW, one kernel for all weights, and over log(temperature) without decay when it is learned."""
    groups: list[dict[str, object]] = [{"params": list(trainable_parameters(model).values())}]
    if temperature.log_value.requires_grad:
        groups.append({"params": [temperature.log_value], "weight_decay": 0.0})
    optimizer = AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay, fused=True)
    optimizer.register_step_post_hook(_mark_changed)
    return optimizer


def _mark_changed(optimizer: Optimizer, *_: object) -> None:
    """The fused optimizer doesn't increment the versions of parameters, which `train.kernels.lora_linear` reads."""
    for group in optimizer.param_groups:
        torch.autograd.graph.increment_version(group["params"])


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
    norm = _clip(learner, optim.max_grad_norm)
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


def _clip(learner: Learner, limit: float) -> Tensor:
    """Scale the gradient down to `limit`, and its norm before that; over all shards where it lies in shards."""
    if isinstance(learner.optimizer, DeepSpeedAdamW):
        return learner.optimizer.grad_norm()  # clipped as it steps
    weights = list(trainable_parameters(learner.model).values())
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients))
    torch.nn.utils.clip_grads_with_norm_(weights, limit, norm)
    return norm


def seed_dropout(seed: int, step: int) -> None:
    """Dropout's randomness is a function of seed, step and rank, so a resumed run needs no stored generator."""
    rank = torch.distributed.get_rank() if world_size() > 1 else 0
    torch.manual_seed(((seed * 1_000_003 + step) * 4_099 + rank) % 2**63)


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any rank; every rank gets the same answer."""
    return bool(sum_over_ranks(torch.tensor(int(flag), device=device)))
