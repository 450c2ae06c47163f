"""AdamW, the learning-rate schedule and the loss scale: what a step changes, and by how much.

The loss scale is that of float16 (Micikevicius et al. 2018), which holds nothing below 6e-8. The gradient at the
embeddings is multiplied by it before it is propagated through the decoder, and the gradients of the weights are divided
by it. A step whose gradients overflow is skipped, and the scale halved; after many good steps it is doubled. The
numbers are those of `torch.amp.GradScaler`, which itself needs a loss to multiply, and gradient caching has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim import AdamW

from train.adapters.lora import trainable_parameters
from train.adapters.projection import PEAK_LR, Projection
from train.config import OptimConfig
from train.distributed.interface import Engine, EngineOptimizer
from train.losses.objective import Temperature


@dataclass(frozen=True)
class Learner:
    """What a step changes: the model, the temperature, perhaps a projection, and the optimizer over all of them."""

    model: Engine
    temperature: Temperature
    optimizer: EngineOptimizer
    total_steps: int
    projection: Projection | None = None
    """The one that only the loss uses; a kept one belongs to the model."""

    @property
    def matrix(self) -> Tensor | None:
        """The weights of that projection."""
        return None if self.projection is None else self.projection.weight

    @torch.no_grad()
    def unscale(self, scale: float) -> None:
        """Divide the gradients of the weights by the loss scale; a power of two, so nothing is rounded."""
        if scale != 1.0:
            for weight in trainable_parameters(self.model.embedder).values():
                if weight.grad is not None:
                    weight.grad.div_(scale)

    def update(self, log_temperature_gradient: Tensor, projection_gradient: Tensor | None = None) -> None:
        """Update weights, temperature and projection by their gradients."""
        if self.temperature.log_value.requires_grad:
            self.temperature.log_value.grad = log_temperature_gradient.clone()
        if self.projection is not None and projection_gradient is not None:
            self.projection.weight.grad = projection_gradient.clone()
        self.optimizer.step()
        self.temperature.hold_floor()


def make_optimizer(
    model: Engine, temperature: Temperature, config: OptimConfig, projection: Projection | None = None
) -> EngineOptimizer:
    """AdamW over the trained weights, in one fused kernel, without decay over log(temperature) if it is learned, and
    over a projection of the loss.
    """
    groups: list[dict[str, object]] = [{"params": list(trainable_parameters(model.embedder).values())}]
    if temperature.log_value.requires_grad:
        groups.append({"params": [temperature.log_value], "weight_decay": 0.0})
    if projection is not None:
        groups.append({"params": [projection.weight], "lr_factor": PEAK_LR / config.lr})
    adamw = AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay, fused=True)
    return model.optimizer(adamw, config.max_grad_norm)


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


Decay = Literal["linear", "cosine", "constant"]


def learning_rate(step: int, total: int, config: OptimConfig) -> float:
    """The learning rate of optimizer step `step` of `total`."""
    return config.lr * lr_factor(step, total, config.warmup, config.decay)


def lr_factor(step: int, total: int, warmup: float, decay: Decay) -> float:
    """The fraction of the peak learning rate that optimizer step `step` of `total` (counted from 0) uses.

    `warmup` is a fraction of the steps. Warm-up step `s` of `w` uses (s + 1) / w, so the first step already learns and
    the last warm-up step is at the peak. After the warm-up, step `w + i` with `d = total - w` decay steps is at i / d
    of the curve: the first is at the peak, the last is just above zero, and zero itself would be step `total`, which is
    never run. Schedules that give warm-up step s the factor s / w (those of transformers) equal this one shifted by a
    step while warming up, and equal it exactly afterwards.
    """
    if total < 1 or not 0 <= step <= total:
        raise ValueError(f"step {step} is outside 0..{total}")
    warming = warmup_steps(total, warmup)
    if step < warming:
        return (step + 1) / warming
    return _decayed((step - warming) / max(1, total - warming), decay)


def warmup_steps(total: int, warmup: float) -> int:
    """The number of warm-up steps: the fraction rounded to whole steps, halves to the even number."""
    if not 0.0 <= warmup <= 1.0:
        raise ValueError(f"warmup is {warmup}; give a fraction of the steps between 0 and 1")
    return round(warmup * total)


def _decayed(progress: float, decay: Decay) -> float:
    if decay == "constant":
        return 1.0
    if decay == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
