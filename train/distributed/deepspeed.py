"""What DeepSpeed's ZeRO-2 and ZeRO-3 have in common here: an AdamW that each process runs a part of.

ZeRO: Rajbhandari et al. 2020 (arXiv 1910.02054). Of itself DeepSpeed reduces gradients after each backward pass. Within
`coalesce_grad_reduction`, which it added for gradient caching (its pull request 7992), passes add to each process's own
gradients, and its end reduces them once.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from packaging.version import Version
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from dec2vec.errors import UserError

OLDEST = "0.19.8"
"""The version that was run; older ones may lack `coalesce_grad_reduction`."""
MOMENTS = ("exp_avg", "exp_avg_sq")
_LARGEST_BUCKET = 2**28
"""Gradients that are reduced in one go, of which DeepSpeed holds a copy."""


class DeepSpeedAdamW(ABC):
    """What a step needs of an optimiser, over weights that DeepSpeed has divided between the processes.

    All processes must make each call, but for `param_groups` and `zero_grad`. A learned temperature stays out: each
    process has its whole gradient, and the clipped norm is that of the weights.
    """

    def __init__(self, module: nn.Module, whole: AdamW, config: dict[str, Any]) -> None:
        """Take over `whole`, whose first group are the trained weights of `module`; `config` is DeepSpeed's."""
        import deepspeed

        self._weights: list[nn.Parameter] = whole.param_groups[0]["params"]
        self._adamw = AdamW(whole.param_groups[:1])
        self.rest = AdamW(whole.param_groups[1:]) if len(whole.param_groups) > 1 else None
        """What steps the temperature."""
        self._engine, *_ = deepspeed.initialize(model=module, optimizer=self._adamw, config=config)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Whose learning rates are set before each step."""
        return [*self._adamw.param_groups, *([] if self.rest is None else self.rest.param_groups)]

    @contextlib.contextmanager
    def reduced_once(self) -> Iterator[None]:
        """Backward passes within add to this process's own gradients; at the end all processes average these."""
        with self._engine.coalesce_grad_reduction():
            try:
                yield
            except BaseException:
                for weight in self._weights:  # else its end would wait for ranks that know of no error
                    weight.grad = None
                raise

    @abstractmethod
    def grad_norm(self) -> Tensor:
        """Of the averaged gradient before it is clipped, which `step` does; nan if it is not finite."""

    def step(self) -> None:
        """Clip, step this process's part, gather the weights."""
        self._engine.step()
        if self.rest is not None:
            self.rest.step()
        torch.autograd.graph.increment_version(
            self._weights
        )  # DeepSpeed writes past it; train.kernels.lora_linear goes by it

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        """Drop the gradients, also averaged ones that were not stepped (as DeepSpeed does after an overflow)."""
        optimizer = self._engine.optimizer
        optimizer.zero_grad(set_to_none=set_to_none)
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
        if self.rest is not None:
            self.rest.zero_grad(set_to_none=set_to_none)

    @property
    def count(self) -> int:
        """Weights that are divided; they come before the temperature."""
        return len(self._weights)

    @abstractmethod
    def moments(self) -> list[dict[str, Tensor]]:
        """AdamW's state of each weight, whole, in host memory of the main process; nothing on others."""

    @abstractmethod
    def restore(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Go on from the weights as the module has them now, and from their moments; empty where none were stepped."""


def settings(numbers: int, limit: float, zero: Mapping[str, Any]) -> dict[str, Any]:
    """DeepSpeed's configuration for so many trained numbers; `zero` names the stage."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # batches are ours; this is what its samples are counted by
        "gradient_clipping": limit,
        "steps_per_print": math.inf,
        "zero_optimization": {"reduce_bucket_size": min(numbers, _LARGEST_BUCKET), **zero},
    }


def check_moments(states: Mapping[int, Mapping[str, Tensor]], shapes: Sequence[torch.Size]) -> None:
    """ValueError unless there are both moments of each weight, in its shape."""
    for index, shape in enumerate(shapes):
        for key in MOMENTS:
            if index not in states or states[index][key].shape != shape:
                raise ValueError(f"no {key} of shape {tuple(shape)} for weight {index}")


def check_trained(weights: Sequence[nn.Parameter]) -> None:
    """UserError for weights that DeepSpeed would step in 16 bits."""
    odd = next((weight.dtype for weight in weights if weight.dtype != torch.float32), None)
    if odd is not None:
        name = str(odd).removeprefix("torch.")
        raise UserError(
            f"model.dtype {name}: DeepSpeed trains float32 weights here; use float32, or --lora.method lora"
        )


def reduced_once(optimizer: Optimizer | DeepSpeedAdamW) -> contextlib.AbstractContextManager[None]:
    """A step's backward passes, where DeepSpeed reduces gradients; elsewhere the wrapped model does."""
    return optimizer.reduced_once() if isinstance(optimizer, DeepSpeedAdamW) else contextlib.nullcontext()


def check_installed() -> None:
    """UserError where DeepSpeed is missing or too old; before Accelerate looks for it."""
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("use_deepspeed: the deepspeed package is missing; pip install 'dec2vec[deepspeed]'")
    found = importlib.metadata.version("deepspeed")
    if Version(found) < Version(OLDEST):
        raise UserError(f"use_deepspeed: needs deepspeed {OLDEST}, not {found}; pip install -U 'dec2vec[deepspeed]'")


def silence() -> None:
    """Leave out a warning in each step of each process: what torch has renamed, DeepSpeed calls by its old name."""
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def asked_stage() -> Literal["zero2", "zero3"]:
    """What the launcher asks of DeepSpeed; UserError for what dec2vec does not run."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage not in ("2", "3"):
        raise UserError(f"zero_stage {stage}: not supported; use 2 or 3, or configs/accelerate/ddp.yaml")
    if os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise UserError(f"deepspeed_config_file: not read; put zero_stage: {stage} under deepspeed_config in its place")
    for name in ("offload_optimizer_device", "offload_param_device"):
        if os.environ.get(f"ACCELERATE_DEEPSPEED_{name.upper()}", "none") != "none":
            raise UserError(f"{name}: not supported; set it to none (or use more processes)")
    if stage == "3" and os.environ.get("ACCELERATE_DEEPSPEED_ZERO3_INIT", "true") != "false":
        raise UserError("zero3_init_flag: not supported; set it to false (each process reads the files)")
    return "zero2" if stage == "2" else "zero3"
