"""LoRA's linear layers without extra passes over the activations; saved and merged, they are still PEFT's layers.

PEFT computes x W' as x W + s (x A) B: two thin products, a scaled copy and a sum, each over every token. Here
W' = W + s B A is computed once a step, as the adapters are the same for all its chunks, and the forward pass is one
product. The backward pass needs no gradient of W': those of A and B are thin products of tensors that it has anyway.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from train.kernels.frozen_linear import PLAIN_LINEAR

FUSED_UNDER_AUTOCAST = frozenset({"cpu", "cuda"})
"""The types of device whose bfloat16 autocast is replaced; on a GPU this has not been run yet."""


class _MergedLinear(torch.autograd.Function):
    """x W'^T + b, with gradients at x, A and B; W' and b are constants."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, merged: Tensor, bias: Tensor | None, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, down, up, merged)
        ctx.scale = scale
        return F.linear(x, merged, bias)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, down, up, merged = ctx.saved_tensors
        gradient, seen = outputs[0].reshape(-1, merged.shape[0]), x.reshape(-1, merged.shape[1])
        at_x = (gradient @ merged).view(x.shape) if ctx.needs_input_grad[0] else None
        at_down = (gradient @ (up * ctx.scale)).T @ seen
        at_up = (seen @ (down * ctx.scale).T).T @ gradient  # transposed: with the thin side left it is 1.5-3x faster
        return at_x, at_down, at_up.T.contiguous(), None, None, None


class FastLinear(PeftLinear):  # type: ignore[misc]  # PEFT is untyped
    """PEFT's layer with the merged forward pass wherever it is the same function."""

    _merged: Tensor | None = None
    _merged_from: tuple[int, ...] = ()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """PEFT's own output, up to rounding."""
        is_float32 = x.dtype == self.base_layer.weight.dtype == torch.float32
        mergeable = not args and not kwargs and is_float32 and product_dtype(x) == torch.float32
        adapter = self.plain_adapter() if mergeable else None
        if adapter is None:
            output: Tensor = super().forward(x, *args, **kwargs)
            return output
        down, up, scale = adapter
        merged = self._merge(self.base_layer.weight, down, up, scale)
        result: Tensor = _MergedLinear.apply(x, down, up, merged, self.base_layer.bias, scale)  # type: ignore[no-untyped-call]
        return result

    def plain_adapter(self) -> tuple[Tensor, Tensor, float] | None:
        """Down, up and scale of the one adapter on a frozen layer; None if the layer computes anything else.

        Dropout has no merged form.
        """
        base = self.base_layer
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1 or type(base) not in PLAIN_LINEAR:
            return None
        name = self.active_adapters[0]
        if name not in self.lora_A or name in self.lora_variant or self.fan_in_fan_out or self.lora_bias[name]:
            return None
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        if down.dtype != torch.float32 or base.weight.dtype not in (torch.float32, torch.bfloat16):
            return None
        drops = self.training and not isinstance(self.lora_dropout[name], nn.Identity)
        if drops or any(parameter.requires_grad for parameter in base.parameters()):
            return None
        return down, up, float(self.scaling[name])

    @torch.no_grad()
    def _merge(self, weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        """W', computed again if any of its parts has changed since the last time."""
        source = tuple(number for part in (weight, down, up) for number in (part.data_ptr(), part._version))
        if self._merged is None or source != self._merged_from:
            self._merged = torch.addmm(weight, up, down, alpha=scale)
            self._merged_from = source
        return self._merged


def product_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype in which activations are multiplied here; None if the kernels don't compute in it.

    It is that of float32 activations, or bfloat16 under autocast to it.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return torch.float32 if x.dtype == torch.float32 else None
    is_known = device in FUSED_UNDER_AUTOCAST and x.dtype in (torch.float32, torch.bfloat16)
    return torch.bfloat16 if is_known and torch.get_autocast_dtype(device) == torch.bfloat16 else None


def use_fast_linears(backbone: nn.Module) -> None:
    """Give all of PEFT's plain LoRA layers the merged forward pass; names, parameters and files stay the same."""
    for module in backbone.modules():
        if type(module) is PeftLinear:
            module.__class__ = FastLinear
