"""DeepSpeed ZeRO-2: AdamW's moments in equal parts, one for each process; the weights stay whole on all of them.

ZeRO: Rajbhandari et al. 2020 (arXiv 1910.02054). A process steps the part that is its own, and all gather the weights.
Of itself ZeRO-2 reduces gradients after each backward pass. Within `coalesce_grad_reduction`, which DeepSpeed added for
gradient caching (its pull request 7992), passes add to each process's own gradients, and its end reduces them once.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from packaging.version import Version
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from dec2vec.errors import UserError

OLDEST = "0.19.8"
"""The version that was run; older ones may lack `coalesce_grad_reduction`."""
_MOMENTS = ("exp_avg", "exp_avg_sq")
_LARGEST_BUCKET = 2**28
"""Gradients that are reduced in one go, of which DeepSpeed holds a copy."""


class PartitionedAdamW:
    """What a step needs of an optimiser, over weights that DeepSpeed has divided between the processes.

    All processes must make each call, but for `param_groups` and `zero_grad`. Texts go through the module itself, not
    through DeepSpeed's engine. A learned temperature stays out: each process has its whole gradient, and the clipped
    norm is that of the weights.
    """

    def __init__(self, module: nn.Module, weights: Sequence[nn.Parameter], whole: AdamW, limit: float) -> None:
        """Take over `whole`, whose first group are the `weights` of `module`; gradients are clipped to `limit`."""
        import deepspeed

        self._weights = list(weights)
        self._adamw = AdamW(whole.param_groups[:1])
        self.rest = AdamW(whole.param_groups[1:]) if len(whole.param_groups) > 1 else None
        """What steps the temperature."""
        numbers = sum(weight.numel() for weight in weights)
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # batches are ours; this is what its samples are counted by
            "gradient_clipping": limit,
            "steps_per_print": math.inf,
            "zero_optimization": {"stage": 2, "reduce_bucket_size": min(numbers, _LARGEST_BUCKET)},
        }
        self._engine, *_ = deepspeed.initialize(model=module, optimizer=self._adamw, config=settings)
        if not torch.equal(self._own(self._weights), self._part.detach()):
            raise UserError(f"deepspeed {deepspeed.__version__}: divides weights in another way; install {OLDEST}")

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Whose learning rates are set before each step."""
        return [*self._adamw.param_groups, *([] if self.rest is None else self.rest.param_groups)]

    @contextlib.contextmanager
    def reduced_once(self) -> Iterator[None]:
        """Backward passes within add to this process's own gradients; at the end all processes average these."""
        with self._engine.coalesce_grad_reduction():
            yield
            for weight in self._weights:  # all processes must bring the same ones
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)

    def grad_norm(self) -> Tensor:
        """Of the averaged gradient before it is clipped, which `step` does; nan if it is not finite."""
        norm: Tensor = self._engine.optimizer.scaled_global_norm()
        return torch.where(norm < 0, torch.full_like(norm, math.nan), norm)  # DeepSpeed's mark is -1

    def step(self) -> None:
        """Clip, step this process's part, gather the weights."""
        self._engine.step()
        if self.rest is not None:
            self.rest.step()
        torch.autograd.graph.increment_version(self._weights)  # DeepSpeed writes past it; train.fast_lora goes by it

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

    def moments(self) -> list[dict[str, Tensor]]:
        """AdamW's state of each weight, whole, in host memory of the main process; nothing on others."""
        state = self._adamw.state.get(self._part, {})
        whole = {key: self._gathered(state[key]) for key in _MOMENTS if state}
        if not state or dist.get_rank() != 0:
            return []
        step: Tensor = state["step"]
        return [
            {"step": step.clone(), **{key: whole[key][index] for key in _MOMENTS}}
            for index in range(len(self._weights))
        ]

    @torch.no_grad()
    def restore(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Go on from the weights as the module has them now, and from their moments."""
        self._part.copy_(self._own(self._weights))
        if not states:
            return
        for index, weight in enumerate(self._weights):
            for key in _MOMENTS:
                if index not in states or states[index][key].shape != weight.shape:
                    raise ValueError(f"no {key} of shape {tuple(weight.shape)} for weight {index}")
        moments = {key: self._own([states[index][key] for index in range(len(self._weights))]) for key in _MOMENTS}
        self._adamw.state[self._part] = {"step": states[0]["step"].to(self._part.device), **moments}

    @property
    def _part(self) -> Float[Tensor, " part"]:
        """This process's weights, which DeepSpeed has put in the place of all."""
        (part,) = self._adamw.param_groups[0]["params"]
        found: Tensor = part
        return found

    def _own(self, tensors: Sequence[Tensor]) -> Float[Tensor, " part"]:
        """This process's part of whole tensors: all numbers in one row, zeros behind them, cut into equal parts."""
        part = torch.zeros_like(self._part, requires_grad=False)
        first, last, at = dist.get_rank() * len(part), (dist.get_rank() + 1) * len(part), 0
        for tensor in tensors:
            begin, end = max(first, at), min(last, at + tensor.numel())
            if begin < end:
                part[begin - first : end - first] = tensor.detach().flatten()[begin - at : end - at]
            at += tensor.numel()
        return part

    def _gathered(self, part: Float[Tensor, " part"]) -> list[Tensor]:
        """Whole tensors, shaped as the weights, in the main process's host memory; one part at a time on devices."""
        parts = []
        for rank in range(dist.get_world_size()):
            received = part if rank == dist.get_rank() else torch.empty_like(part)
            dist.broadcast(received, src=rank)
            if dist.get_rank() == 0:
                parts.append(received.cpu())
        if not parts:
            return []
        sizes = [weight.numel() for weight in self._weights]
        pieces = torch.split_with_sizes(torch.cat(parts)[: sum(sizes)], sizes)
        return [piece.view(weight.shape) for piece, weight in zip(pieces, self._weights, strict=True)]


def partitioned(module: nn.Module, weights: Sequence[nn.Parameter], whole: AdamW, limit: float) -> PartitionedAdamW:
    """`whole` in DeepSpeed's hands; UserError for weights that it would step in 16 bits."""
    odd = next((weight.dtype for weight in weights if weight.dtype != torch.float32), None)
    if odd is not None:
        name = str(odd).removeprefix("torch.")
        raise UserError(
            f"model.dtype {name}: DeepSpeed trains float32 weights here; use float32, or --lora.method lora"
        )
    return PartitionedAdamW(module, weights, whole, limit)


def reduced_once(optimizer: Optimizer | PartitionedAdamW) -> contextlib.AbstractContextManager[None]:
    """A step's backward passes, where DeepSpeed reduces gradients; elsewhere the wrapped model does."""
    return optimizer.reduced_once() if isinstance(optimizer, PartitionedAdamW) else contextlib.nullcontext()


def check_installed() -> None:
    """UserError where DeepSpeed is missing or too old; before Accelerate looks for it."""
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("use_deepspeed: the deepspeed package is missing; pip install 'dec2vec[deepspeed]'")
    found = importlib.metadata.version("deepspeed")
    if Version(found) < Version(OLDEST):
        raise UserError(f"use_deepspeed: needs deepspeed {OLDEST}, not {found}; pip install -U 'dec2vec[deepspeed]'")


def check_settings() -> None:
    """UserError for what the launcher asks of DeepSpeed beyond ZeRO-2."""
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage == "3":
        raise UserError(
            "zero_stage 3: not supported; configs/accelerate/fsdp2.yaml keeps the weights in the same shards"
        )
    if stage != "2":
        raise UserError(f"zero_stage {stage}: not supported; use 2, or configs/accelerate/ddp.yaml")
    if os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none") != "none":
        raise UserError("deepspeed_config_file: not read; put zero_stage: 2 under deepspeed_config in its place")
    for name in ("offload_optimizer_device", "offload_param_device"):
        if os.environ.get(f"ACCELERATE_DEEPSPEED_{name.upper()}", "none") != "none":
            raise UserError(f"{name}: not supported; set it to none (or use more processes)")
