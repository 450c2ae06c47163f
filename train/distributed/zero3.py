"""DeepSpeed ZeRO-3: all weights, and AdamW's moments of the trained ones, in equal parts, one for each process.

DeepSpeed hooks every module: its weights are gathered before it runs and released after it, forward and backward. So
every pass needs all processes, as under FSDP2. A parameter in parts is empty while it is released; only DeepSpeed's own
functions read or write it as a whole.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW

from dec2vec.batching import Chunk
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.shared_prefix import SharedPrefix
from train.distributed.deepspeed import MOMENTS, DeepSpeedAdamW, check_moments, check_trained, settings
from train.distributed.interface import EngineOptimizer
from train.distributed.sharded import Sharded

STAGE: Mapping[str, Any] = {"stage": 3}
"""Which weights stay gathered, and for how long, is left to DeepSpeed (small ones always, others up to 1e9 numbers)."""
_COUNT = "ds_grads_remaining"


class Zero3(Sharded):
    """An embedder whose modules gather their weights by DeepSpeed's hooks.

    A hook knows that its module's backward pass is over from a count, which each forward pass sets and each backward
    pass counts down to zero. If the graphs of several chunks are kept, the count is that of the last chunk; so it is
    set again before each pass.
    """

    title = "ZeRO-3"

    def __init__(self, embedder: Embedder, accelerator: Accelerator) -> None:
        super().__init__(embedder)
        divide(embedder, accelerator.device)
        self._counts: dict[nn.Module, int] = {}

    def optimizer(self, adamw: AdamW, max_norm: float) -> EngineOptimizer:
        return ShardedAdamW(self.embedder, adamw, max_norm)

    def forward(self, chunk: Chunk, prefix: SharedPrefix | None = None) -> Float[Tensor, "batch dim"]:
        self._reset_counts()
        pooled = super().forward(chunk, prefix)
        if torch.is_grad_enabled():
            modules = {module: vars(module) for module in self.embedder.modules()}
            self._counts = {module: values[_COUNT] for module, values in modules.items() if _COUNT in values}
        return pooled

    def begin_backward(self, *, last: bool) -> None:
        """The same for every chunk; the optimizer knows when to reduce gradients."""
        self._reset_counts()

    def whole(self, tensor: Tensor) -> Tensor:
        """A copy of a whole trained parameter; other tensors as they are."""
        if not self.is_shard(tensor):
            return tensor
        from deepspeed.utils import safe_get_full_fp32_param

        whole: Tensor = safe_get_full_fp32_param(tensor)
        return whole

    @torch.no_grad()
    def overwrite(self, parameter: Tensor, whole: Tensor) -> None:
        if not self.is_shard(parameter):
            parameter.copy_(whole)
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.detach().copy_(whole)

    def is_shard(self, tensor: Tensor) -> bool:
        return "ds_tensor" in vars(tensor)

    def _reset_counts(self) -> None:
        for module, count in self._counts.items():
            vars(module)[_COUNT] = count


def divide(module: nn.Module, device: torch.device) -> None:
    """Leave each process its part of the module's weights, on `device`; one weight is divided after the other."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    check_trained(trained)
    import deepspeed

    numbers = sum(weight.numel() for weight in trained)
    deepspeed.zero.Init(module=module, config_dict_or_path=settings(numbers, 1.0, STAGE))
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)


class ShardedAdamW(DeepSpeedAdamW):
    """AdamW over the weights of a module that `divide` has divided."""

    def __init__(self, module: nn.Module, adamw: AdamW, max_norm: float) -> None:
        numbers = sum(_shape(weight).numel() for weight in adamw.param_groups[0]["params"])
        super().__init__(module, adamw, max_norm, settings(numbers, max_norm, STAGE))

    @contextlib.contextmanager
    def one_reduction(self) -> Iterator[None]:
        """As the base class; RuntimeError for a weight without a gradient, as the last step's would be used again."""
        with super().one_reduction():
            yield
            if any(weight.grad is None for weight in self._weights):
                raise RuntimeError("ZeRO-3: a trained weight got no gradient in this step")

    def clip(self) -> Tensor:
        optimizer = self._engine.optimizer
        groups = [
            optimizer.get_grad_norm_direct(optimizer.averaged_gradients[index], weights)
            for index, weights in enumerate(optimizer.fp16_groups)
        ]
        norms = torch.stack(groups)
        norms = torch.where(norms < 0, torch.full_like(norms, math.nan), norms)  # DeepSpeed gives -1 if not finite
        norm: Tensor = torch.linalg.vector_norm(norms)
        return norm

    def _moments(self) -> list[dict[str, Tensor]]:
        """As the base class; one weight at a time on devices."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state = self._adamw.state.get(self._parts[0], {})
        if not state:
            return []
        moments = []
        for weight in self._weights:
            whole = {key: safe_get_full_optimizer_state(weight, key) for key in MOMENTS}
            if dist.get_rank() == 0:
                moments.append({"step": state["step"].clone(), **{key: value.cpu() for key, value in whole.items()}})
        return moments

    @torch.no_grad()
    def _restore_moments(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        from deepspeed.utils import safe_set_local_optimizer_state

        self._engine.optimizer.refresh_fp32_params()
        if not state:
            return
        check_moments(state, [_shape(weight) for weight in self._weights])
        for part in self._parts:
            moments = {key: torch.zeros_like(part, requires_grad=False) for key in MOMENTS}
            self._adamw.state[part] = {"step": state[0]["step"].to(part.device), **moments}
        for index, weight in enumerate(self._weights):
            for key in MOMENTS:
                safe_set_local_optimizer_state(weight, _part_of(state[index][key], weight), key)

    @property
    def _parts(self) -> list[Tensor]:
        """This process's trained weights in float32: one row, or several if they are very many."""
        parts: list[Tensor] = self._engine.optimizer.fp32_partitioned_groups_flat
        return parts


def _shape(weight: Tensor) -> torch.Size:
    shape: torch.Size = vars(weight)["ds_shape"]
    return shape


def _part_of(whole: Tensor, weight: Tensor) -> Float[Tensor, " part"]:
    """This process's part of a whole tensor: its numbers in one row, padded with zeros, cut into equal parts."""
    part: Tensor = torch.zeros_like(vars(weight)["ds_tensor"], dtype=torch.float32)
    first = dist.get_rank() * part.numel()
    numbers = whole.flatten()[first : first + part.numel()]
    part[: numbers.numel()] = numbers
    return part
