"""DeepSpeed ZeRO-3: all weights in equal parts, one for each process, and AdamW's moments of the trained ones too.

DeepSpeed hooks every module: its weights are gathered before it runs and given up after it, forward and backward. So
each pass needs all processes (`train.distributed.sharded`), as under FSDP2. A parameter in parts is empty in between;
`is_parted` tells it, `whole_weight` and `overwrite_whole` go through DeepSpeed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW

from train.distributed.deepspeed import MOMENTS, DeepSpeedAdamW, check_moments, check_trained, settings

STAGE: Mapping[str, Any] = {"stage": 3}
"""Which weights stay gathered for how long is left to DeepSpeed (small ones always, others up to 1e9 numbers)."""


def divide(module: nn.Module, device: torch.device) -> None:
    """Leave each process its part of the module's weights, on `device`, one weight after the other."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    check_trained(trained)
    import deepspeed

    numbers = sum(weight.numel() for weight in trained)
    deepspeed.zero.Init(module=module, config_dict_or_path=settings(numbers, 1.0, STAGE))
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)


class ShardedAdamW(DeepSpeedAdamW):
    """AdamW over weights that lie in parts, each process of its own."""

    def __init__(self, module: nn.Module, whole: AdamW, limit: float) -> None:
        """As the base class's, of a module that `divide` has seen; gradients are clipped to `limit`."""
        numbers = sum(_shape(weight).numel() for weight in whole.param_groups[0]["params"])
        super().__init__(module, whole, settings(numbers, limit, STAGE))

    @contextlib.contextmanager
    def reduced_once(self) -> Iterator[None]:
        """As the base class's; RuntimeError for a weight without a gradient, for which the last step's would stand."""
        with super().reduced_once():
            yield
            if any(weight.grad is None for weight in self._weights):
                raise RuntimeError("ZeRO-3: a trained weight got no gradient in this step")

    def grad_norm(self) -> Tensor:
        """As the base class's."""
        optimizer = self._engine.optimizer
        groups = [
            optimizer.get_grad_norm_direct(optimizer.averaged_gradients[index], weights)
            for index, weights in enumerate(optimizer.fp16_groups)
        ]
        norms = torch.stack(groups)
        norms = torch.where(norms < 0, torch.full_like(norms, math.nan), norms)  # DeepSpeed's mark is -1
        norm: Tensor = torch.linalg.vector_norm(norms)
        return norm

    def moments(self) -> list[dict[str, Tensor]]:
        """As the base class's; one weight at a time on devices."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state = self._adamw.state.get(self._parts[0], {})
        if not state:
            return []
        found = []
        for weight in self._weights:
            whole = {key: safe_get_full_optimizer_state(weight, key) for key in MOMENTS}
            if dist.get_rank() == 0:
                found.append({"step": state["step"].clone(), **{key: value.cpu() for key, value in whole.items()}})
        return found

    @torch.no_grad()
    def restore(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """As the base class's."""
        from deepspeed.utils import safe_set_local_optimizer_state

        self._engine.optimizer.refresh_fp32_params()
        if not states:
            return
        check_moments(states, [_shape(weight) for weight in self._weights])
        for part in self._parts:
            moments = {key: torch.zeros_like(part, requires_grad=False) for key in MOMENTS}
            self._adamw.state[part] = {"step": states[0]["step"].to(part.device), **moments}
        for index, weight in enumerate(self._weights):
            for key in MOMENTS:
                safe_set_local_optimizer_state(weight, _own(weight, states[index][key]), key)

    @property
    def _parts(self) -> list[Tensor]:
        """This process's trained weights in float32; one row, or several where they are very many."""
        parts: list[Tensor] = self._engine.optimizer.fp32_partitioned_groups_flat
        return parts


def is_parted(tensor: Tensor) -> bool:
    """Whether ZeRO-3 has left this process a part of this parameter."""
    return "ds_tensor" in vars(tensor)


def whole_weight(parameter: Tensor) -> Tensor:
    """A copy of the whole trained parameter on each process; all must call this."""
    from deepspeed.utils import safe_get_full_fp32_param

    found: Tensor = safe_get_full_fp32_param(parameter)
    return found


def overwrite_whole(parameter: Tensor, tensor: Tensor) -> None:
    """Put the whole `tensor`, which every process has read, into the parameter; all must call this."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        parameter.detach().copy_(tensor)


def _shape(weight: Tensor) -> torch.Size:
    shape: torch.Size = vars(weight)["ds_shape"]
    return shape


def _own(weight: Tensor, whole: Tensor) -> Float[Tensor, " part"]:
    """This process's part of a whole tensor: its numbers in one row, zeros behind them, cut into equal parts."""
    part: Tensor = torch.zeros_like(vars(weight)["ds_tensor"], dtype=torch.float32)
    first = dist.get_rank() * part.numel()
    own = whole.flatten()[first : first + part.numel()]
    part[: own.numel()] = own
    return part
