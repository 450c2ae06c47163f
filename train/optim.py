"""AdamW, the learning-rate schedule, clipping: everything a step changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from train.adapters.lora import trainable_parameters
from train.config import OptimConfig
from train.distributed.ddp import Model
from train.distributed.deepspeed import DeepSpeedAdamW
from train.distributed.sharded import whole
from train.losses.objective import Temperature


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


def clip_gradients(learner: Learner, limit: float) -> Tensor:
    """Scale the gradient down to `limit`, and its norm before that; over all shards where it lies in shards."""
    if isinstance(learner.optimizer, DeepSpeedAdamW):
        return learner.optimizer.grad_norm()  # clipped as it steps
    weights = list(trainable_parameters(learner.model).values())
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm(gradients))
    torch.nn.utils.clip_grads_with_norm_(weights, limit, norm)
    return norm


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
