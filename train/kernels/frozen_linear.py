"""Frozen layers whose weights are rounded for autocast once a run, and not in every pass of every chunk.

Autocast keeps the rounded copies of trained weights only, for one pass; those of frozen ones are made anew each time a
layer is called, and each graph holds its own. Here a layer keeps one copy while it is in training mode. Its output and
its gradients have the same bits. In evaluation mode, in which adapters may be merged into the weights, autocast rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


def is_trained(module: nn.Module) -> bool:
    """Whether one of its parameters has a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())


class _Rounded:
    """A layer's rounded weights, and the weights that they were made from. A copy of the layer makes its own."""

    def __init__(self) -> None:
        self.source: tuple[object, ...] = ()
        self.tensors: tuple[Tensor, Tensor | None] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Rounded:
        return _Rounded()

    @torch.no_grad()
    def of(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in `dtype`, made again if one of them has changed."""
        parts = [weight] if bias is None else [weight, bias]
        source = dtype, *(number for part in parts for number in (part.data_ptr(), part._version))
        if self.tensors is None or source != self.source:
            self.source, self.tensors = source, (weight.to(dtype), None if bias is None else bias.to(dtype))
        return self.tensors


class _Frozen(nn.Module):
    """Mixed into a layer with `weight` and `bias`."""

    rounded: _Rounded

    def weights_for(self, x: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias as autocast would round them for `x`; None where it does not round, or they are trained."""
        weight, bias = self._parameters.get("weight"), self._parameters.get("bias")  # no weight: it is parametrized
        device = x.device.type
        if weight is None or is_trained(self) or not self.training or not torch.is_autocast_enabled(device):
            return None
        dtype = torch.get_autocast_dtype(device)
        return None if weight.dtype != torch.float32 or dtype.itemsize > 2 else self.rounded.of(weight, bias, dtype)


class FrozenLinear(_Frozen, nn.Linear):
    """torch's layer."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own output."""
        weights = self.weights_for(x)
        return super().forward(x) if weights is None else F.linear(x, *weights)


class FrozenConv1D(_Frozen, Conv1D):  # type: ignore[misc]  # transformers is untyped
    """The layer of GPT-2, whose weight is transposed."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own output."""
        weights = self.weights_for(x)
        if weights is None:
            output: Tensor = super().forward(x)
            return output
        weight, bias = weights
        assert bias is not None
        return torch.addmm(bias, x.view(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)


_KINDS: dict[type[nn.Module], type[_Frozen]] = {nn.Linear: FrozenLinear, Conv1D: FrozenConv1D}
PLAIN_LINEAR = (nn.Linear, FrozenLinear)
"""The types of a layer that is torch's product and nothing else."""


def use_frozen_linears(backbone: nn.Module) -> None:
    """Let all frozen layers keep their rounded weights; names, parameters and files stay the same."""
    for module in backbone.modules():
        kind = _KINDS.get(type(module))
        if kind is not None and not is_trained(module):
            module.__class__ = kind
            vars(module)["rounded"] = _Rounded()


def rounded_weights(backbone: nn.Module) -> Iterator[Tensor]:
    """All rounded copies that are in memory now."""
    for module in backbone.modules():
        if isinstance(module, _Frozen) and module.rounded.tensors is not None:
            yield from (part for part in module.rounded.tensors if part is not None)
