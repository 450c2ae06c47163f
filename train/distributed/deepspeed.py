"""What DeepSpeed's ZeRO-2 and ZeRO-3 have in common here: an AdamW of which each process runs a part.

ZeRO: Rajbhandari et al. 2020 (arXiv 1910.02054). By default DeepSpeed reduces gradients after each backward pass.
Within `coalesce_grad_reduction`, which was added for gradient caching (DeepSpeed's pull request 7992), backward passes
add to each process's own gradients, which are reduced once when it ends.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from dec2vec.errors import UserError
from train.distributed.interface import EngineOptimizer
from train.distributed.single import PlainAdamW

OLDEST = "0.19.8"
"""The version that was run; older ones may lack `coalesce_grad_reduction`."""
MOMENTS = ("exp_avg", "exp_avg_sq")
_LARGEST_BUCKET = 2**28
"""Gradients that are reduced in one go, of which DeepSpeed holds a copy."""


class DeepSpeedAdamW(EngineOptimizer):
    """AdamW over weights that DeepSpeed has divided between the processes.

    All processes must make each call, except `set_learning_rate` and `zero_grad`. A learned temperature and the loss's
    projection are not divided: each process has their whole gradient and updates them, and the clipped norm is that of
    the weights.
    """

    def __init__(self, module: nn.Module, adamw: AdamW, max_norm: float, config: dict[str, Any]) -> None:
        """Take over `adamw`, whose first group are the trained weights of `module`; `config` is DeepSpeed's."""
        import deepspeed

        self._weights: list[nn.Parameter] = adamw.param_groups[0]["params"]
        self._adamw = AdamW(adamw.param_groups[:1])
        others = adamw.param_groups[1:]
        self._undivided = PlainAdamW(AdamW(others), max_norm) if others else None
        self._engine, *_ = deepspeed.initialize(model=module, optimizer=self._adamw, config=config)

    @property
    def parameter_count(self) -> int:
        others = 0 if self._undivided is None else self._undivided.parameter_count
        return len(self._weights) + others

    def set_learning_rate(self, lr: float) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = lr
        if self._undivided is not None:
            self._undivided.set_learning_rate(lr)

    @contextlib.contextmanager
    def one_reduction(self) -> Iterator[None]:
        """Within, backward passes add to this process's own gradients; at the end all processes average these."""
        with self._engine.coalesce_grad_reduction():
            try:
                yield
            except BaseException:
                for weight in self._weights:  # otherwise the end would wait for ranks that know of no error
                    weight.grad = None
                raise

    @abstractmethod
    def clip(self) -> Tensor:
        """The norm of the averaged gradient, nan if it is not finite; DeepSpeed clips the gradient in `step`."""

    def step(self) -> None:
        """Clip, update this process's part, gather the weights."""
        self._engine.step()
        if self._undivided is not None:
            self._undivided.step()
        # DeepSpeed writes past autograd's versions, by which `train.kernels` knows that weights have changed
        torch.autograd.graph.increment_version(self._weights)

    def zero_grad(self) -> None:
        """Forget all gradients, also averaged ones that `step` did not use (as DeepSpeed does after an overflow)."""
        optimizer = self._engine.optimizer
        optimizer.zero_grad(set_to_none=True)
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
        if self._undivided is not None:
            self._undivided.zero_grad()

    def tensors(self) -> dict[int, dict[str, Tensor]]:
        """The weights' state in host memory of the main process; that of the rest on all processes."""
        state = dict(enumerate(self._moments()))
        if self._undivided is not None:
            state |= {len(self._weights) + index: entry for index, entry in self._undivided.tensors().items()}
        return state

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Continue from the weights as the module has them now, and from their moments."""
        count = len(self._weights)
        self._restore_moments({index: entry for index, entry in state.items() if index < count})
        if self._undivided is not None:
            self._undivided.restore({index - count: entry for index, entry in state.items() if index >= count})

    @abstractmethod
    def _moments(self) -> list[dict[str, Tensor]]:
        """AdamW's state of each weight, whole, in host memory of the main process; nothing on the others."""

    @abstractmethod
    def _restore_moments(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Read the weights again from the module, and take over what `_moments` gave; `state` may be empty."""


def settings(numbers: int, max_norm: float, zero: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSpeed's configuration for weights of `numbers` numbers in all; `zero` names the stage."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # only DeepSpeed's own count of samples reads it; batches are ours
        "gradient_clipping": max_norm,
        "steps_per_print": math.inf,
        "zero_optimization": {"reduce_bucket_size": min(numbers, _LARGEST_BUCKET), **zero},
    }


def check_moments(state: Mapping[int, Mapping[str, Tensor]], shapes: Sequence[torch.Size]) -> None:
    """ValueError unless there are both moments of each weight, in its shape."""
    for index, shape in enumerate(shapes):
        for key in MOMENTS:
            if index not in state or state[index][key].shape != shape:
                raise ValueError(f"no {key} of shape {tuple(shape)} for weight {index}")


def check_trained(weights: Sequence[nn.Parameter]) -> None:
    """UserError for weights that DeepSpeed would update in 16 bits."""
    narrow = next((weight.dtype for weight in weights if weight.dtype != torch.float32), None)
    if narrow is not None:
        name = str(narrow).removeprefix("torch.")
        raise UserError(f"model.dtype {name}: DeepSpeed needs float32 weights; use float32, or lora.method lora")


def check_installed() -> None:
    """UserError if DeepSpeed is missing or too old; called before Accelerate looks for it."""
    from packaging.version import Version

    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("use_deepspeed: the deepspeed package is missing; pip install 'dec2vec[deepspeed]'")
    version = importlib.metadata.version("deepspeed")
    if Version(version) < Version(OLDEST):
        raise UserError(f"use_deepspeed: needs deepspeed {OLDEST}, not {version}; pip install -U 'dec2vec[deepspeed]'")


def silence() -> None:
    """Hide a warning of each process in each step: DeepSpeed calls functions by names that torch has deprecated."""
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def launched_stage() -> Literal[2, 3]:
    """The ZeRO stage that the launcher named; UserError for settings that dec2vec does not run."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("2", "3"):
        raise UserError(f"zero_stage {stage}: not supported; use 2 or 3, or configs/accelerate/ddp.yaml")
    if os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise UserError(f"deepspeed_config_file: not supported; use zero_stage: {stage} under deepspeed_config instead")
    for name in ("offload_optimizer_device", "offload_param_device"):
        if os.environ.get(f"ACCELERATE_DEEPSPEED_{name.upper()}", "none") != "none":
            raise UserError(f"{name}: not supported; set it to none (or use more processes)")
    if stage == "3" and os.environ.get("ACCELERATE_DEEPSPEED_ZERO3_INIT", "true") != "false":
        raise UserError("zero3_init_flag: not supported; set it to false (each process reads the files)")
    return 2 if stage == "2" else 3
