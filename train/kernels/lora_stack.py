"""Frozen linear layers that read the same input, with their adapters, as one matrix product.

What depends only on the weights is computed once a step; the gradients of the adapters are thin products.

In float32 the adapters are merged, W' = W + s B A, and so are the weights by which the norm before the layers scales
every component of the input. In bfloat16 W' would round away the small update s B A (all of it, if W came in bfloat16);
so the adapters are concatenated to the weights, [x, x A^T] times [W, s B], and nothing is rounded that autocast would
not round. Where W came in bfloat16, it is read where it is, and the adapters' part is a product of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from train.kernels.frozen_linear import PLAIN_LINEAR, is_trained
from train.kernels.lora_linear import FastLinear

_ROWS = 64
"""Rows of products in 16 bits are a multiple of this. Their kernels are compiled for one shape, which takes as long as
a product, and kept for a thousand shapes; chunks of any length would have more."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A frozen layer and its adapter's matrices, down (rank, in) and up (out, rank); None if it has no adapter."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None
    down: Tensor | None
    up: Tensor | None
    scale: float

    @classmethod
    def from_module(cls, module: nn.Module) -> Layer | None:
        """None if the module is anything else than a frozen product with at most one plain adapter."""
        if isinstance(module, FastLinear):
            adapter = module.plain_adapter()
            base = module.base_layer
            return None if adapter is None else cls(base.weight, base.bias, *adapter)
        if not isinstance(module, nn.Linear) or type(module) not in PLAIN_LINEAR or is_trained(module):
            return None
        return cls(module.weight, module.bias, None, None, 1.0)

    @property
    def tensors(self) -> list[Tensor]:
        """Everything that the layer's product depends on."""
        return [part for part in (self.weight, self.bias, self.down, self.up) if part is not None]

    def merged(self) -> Float[Tensor, "out in"]:
        """W + s B A."""
        if self.down is None or self.up is None:
            return self.weight.detach()
        return torch.addmm(self.weight.detach(), self.up.detach(), self.down.detach(), alpha=self.scale)


class LoraStack(ABC):
    """The layers of one input, with the weights they have when the object is made.

    The product reads rows that `prepare_inputs` makes from the tokens, and that the backward pass needs again.
    """

    def __init__(self, layers: Sequence[Layer], norm: Tensor | None) -> None:
        biases = [layer.bias for layer in layers]
        self._bias = None if any(bias is None for bias in biases) else torch.cat([b for b in biases if b is not None])
        self._norm = norm
        self._adapted: list[tuple[slice, slice, float]] = []  # among the outputs, among all ranks, and the scale
        row = rank = 0
        for layer in layers:
            if layer.down is not None:
                slices = slice(row, row + len(layer.weight)), slice(rank, rank + len(layer.down))
                self._adapted.append((*slices, layer.scale))
                rank += len(layer.down)
            row += len(layer.weight)
        self._rank = rank

    @staticmethod
    def from_layers(layers: Sequence[Layer], norm: Tensor | None, dtype: torch.dtype) -> LoraStack:
        """The kind that computes products in `dtype`."""
        if dtype == torch.float32:
            return MergedStack(layers, norm)
        is_ready = all(layer.weight.dtype == dtype for layer in layers)
        return SeparateStack(layers, norm, dtype) if is_ready else ConcatenatedStack(layers, norm, dtype)

    @abstractmethod
    def prepare_inputs(self, x: Float[Tensor, "token in"]) -> Float[Tensor, "row read"]:
        """The rows that the product reads; the weight of the norm is not yet applied to `x`."""

    @abstractmethod
    def __call__(self, inputs: Float[Tensor, "row read"]) -> Float[Tensor, "row out"]:
        """The layers' outputs next to each other, as the product gives them."""

    @abstractmethod
    def added(self, x: Float[Tensor, "token out"], inputs: Float[Tensor, "row read"]) -> Float[Tensor, "token out"]:
        """The sum of a float32 `x` and the outputs."""

    @abstractmethod
    def backward(
        self, inputs: Float[Tensor, "row read"], gradient: Float[Tensor, "some out"], *, at_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The gradients at the prepared inputs, and at down and up of each adapter in turn."""

    @abstractmethod
    def gradient_at_x(self, gradient: Float[Tensor, "row in"], tokens: int) -> Float[Tensor, "token in"]:
        """The gradient at x in float32, before the norm's weight, from that at the prepared inputs."""


class MergedStack(LoraStack):
    """Products in float32, by W + s B A."""

    @torch.no_grad()
    def __init__(self, layers: Sequence[Layer], norm: Tensor | None) -> None:
        super().__init__(layers, norm)
        self.weight = torch.cat([layer.merged() for layer in layers])
        if norm is not None:
            self.weight *= norm
        downs = [layer.down * layer.scale for layer in layers if layer.down is not None]
        self._ups = [layer.up * layer.scale for layer in layers if layer.up is not None]
        self._down = torch.cat(downs) if downs else self.weight[:0]
        if norm is not None:
            self._down = self._down * norm

    def prepare_inputs(self, x: Float[Tensor, "token in"]) -> Float[Tensor, "token in"]:
        return x

    def __call__(self, inputs: Float[Tensor, "token in"]) -> Float[Tensor, "token out"]:
        """x W'^T + b."""
        return F.linear(inputs, self.weight, self._bias)

    def added(self, x: Float[Tensor, "token out"], inputs: Float[Tensor, "token in"]) -> Float[Tensor, "token out"]:
        total = torch.addmm(x, inputs, self.weight.T)
        return total if self._bias is None else total.add_(self._bias)

    def backward(
        self, inputs: Float[Tensor, "token in"], gradient: Float[Tensor, "token out"], *, at_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """As the base class; no gradient at W' is computed."""
        return gradient @ self.weight if at_x else None, self._gradients(inputs, gradient)

    def gradient_at_x(self, gradient: Float[Tensor, "token in"], tokens: int) -> Float[Tensor, "token in"]:
        return gradient

    def _gradients(self, x: Float[Tensor, "token in"], gradient: Float[Tensor, "token out"]) -> list[Tensor]:
        if not self._adapted:
            return []
        low = x @ self._down.T
        back = x.new_empty(len(x), self._rank)
        ups = []
        for (rows, ranks, _), up in zip(self._adapted, self._ups, strict=True):
            torch.mm(gradient[:, rows], up, out=back[:, ranks])
            # transposed: with the thin side left it is 1.5-3x faster
            ups.append((low[:, ranks].T @ gradient[:, rows]).T.contiguous())
        downs = back.T @ x
        if self._norm is not None:
            downs *= self._norm
        return [part for (_, ranks, _), up in zip(self._adapted, ups, strict=True) for part in (downs[ranks], up)]


class HalfStack(LoraStack):
    """Products in 16 bits, of [x, x A^T]."""

    def __init__(self, layers: Sequence[Layer], norm: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(layers, None if norm is None else norm.float())
        self._dtype, self._dim = dtype, layers[0].weight.shape[1]
        downs = [layer.down for layer in layers if layer.down is not None]
        self._down = (torch.cat(downs) if downs else layers[0].weight[:0]).to(dtype)
        self._bias = None if self._bias is None else self._bias.to(dtype)
        self._ups = [layer.up * layer.scale for layer in layers if layer.up is not None]

    def prepare_inputs(self, x: Float[Tensor, "token in"]) -> Float[Tensor, "row read"]:
        """[x, x A^T]."""
        rows = self._filled(x if self._norm is None else x * self._norm, self._dim + self._rank)
        torch.mm(rows[:, : self._dim], self._down.T, out=self._low(rows))
        return rows

    def added(self, x: Float[Tensor, "token out"], inputs: Float[Tensor, "row read"]) -> Float[Tensor, "token out"]:
        """The sum in float32."""
        return self(inputs)[: len(x)].float().add_(x)

    def backward(
        self, inputs: Float[Tensor, "row read"], gradient: Float[Tensor, "some out"], *, at_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """As the base class."""
        if len(gradient) < len(inputs) or gradient.dtype != inputs.dtype:
            gradient = self._filled(gradient, gradient.shape[1])
        at_tokens, back = self._back(gradient, at_x=at_x)
        return at_tokens, self._gradients(inputs, gradient, back)

    @abstractmethod
    def _back(self, gradient: Float[Tensor, "row out"], *, at_x: bool) -> tuple[Tensor | None, Tensor]:
        """From that at the outputs, the gradients at x, where wanted, and at x A^T alone."""

    def gradient_at_x(self, gradient: Float[Tensor, "row in"], tokens: int) -> Float[Tensor, "token in"]:
        """As the base class, in new memory."""
        at_x = gradient[:tokens].float()
        return at_x if self._norm is None else at_x.mul_(self._norm)

    def _low(self, rows: Float[Tensor, "some read"]) -> Float[Tensor, "some rank"]:
        """The columns of the adapters."""
        return rows[:, self._dim :]

    def _filled(self, x: Float[Tensor, "token width"], width: int) -> Float[Tensor, "row {width}"]:
        """`x` in the products' dtype, in the first columns of new memory; everything else is zero.

        The other columns too, though they are overwritten: oneDNN's AMX kernels (in torch 2.13) read the left side of
        a product up to the next multiple of 32 columns, and NaN times zero is NaN (oneDNN issue 5717).
        """
        count = -(-len(x) // _ROWS) * _ROWS
        rows = x.new_empty(count, width, dtype=self._dtype)
        rows[: len(x), : x.shape[1]].copy_(x)
        rows[len(x) :].zero_()
        rows[: len(x), x.shape[1] :].zero_()
        return rows

    def _gradients(self, inputs: Tensor, gradient: Tensor, back: Float[Tensor, "row rank"]) -> list[Tensor]:
        """At down and up of each adapter in turn; `back` is the gradient at x A^T."""
        if not self._adapted:
            return []
        low, downs = self._low(inputs), (back.T @ inputs[:, : self._dim]).float()
        gradients = []
        for rows, ranks, scale in self._adapted:
            up = (low[:, ranks].T @ gradient[:, rows]).float().mul_(scale)  # transposed: as in Merged
            gradients += [downs[ranks], up.T.contiguous()]
        return gradients


class ConcatenatedStack(HalfStack):
    """One product for all layers and their adapters, by a copy [W, s B]."""

    @torch.no_grad()
    def __init__(self, layers: Sequence[Layer], norm: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(layers, norm, dtype)
        weight = torch.cat([layer.weight for layer in layers])
        self._weight = weight.new_zeros(len(weight), self._dim + self._rank, dtype=dtype)
        self._weight[:, : self._dim] = weight
        for (rows, ranks, _), up in zip(self._adapted, self._ups, strict=True):
            self._low(self._weight)[rows, ranks] = up

    def __call__(self, inputs: Float[Tensor, "row read"]) -> Float[Tensor, "row out"]:
        return F.linear(inputs, self._weight, self._bias)

    def _back(self, gradient: Float[Tensor, "row out"], *, at_x: bool) -> tuple[Tensor | None, Tensor]:
        """By one product for x and for x A^T."""
        if not at_x:
            return None, gradient @ self._low(self._weight)
        at_inputs = gradient @ self._weight
        back = self._low(at_inputs)
        return at_inputs[:, : self._dim].addmm(back, self._down) if self._rank else at_inputs, back


class SeparateStack(HalfStack):
    """A product for each layer, whose weights are in the products' dtype already, and thin ones for the adapters."""

    @torch.no_grad()
    def __init__(self, layers: Sequence[Layer], norm: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(layers, norm, dtype)
        self._ups = [up.to(dtype) for up in self._ups]
        self._weights: list[tuple[slice, Tensor]] = []  # with the layer's place among the outputs
        row = 0
        for layer in layers:
            self._weights.append((slice(row, row + len(layer.weight)), layer.weight.detach()))
            row += len(layer.weight)

    def __call__(self, inputs: Float[Tensor, "row read"]) -> Float[Tensor, "row out"]:
        x, low = inputs[:, : self._dim], self._low(inputs)
        outputs = inputs.new_empty(len(inputs), self._weights[-1][0].stop)
        for rows, weight in self._weights:
            torch.mm(x, weight.T, out=outputs[:, rows])
        for (rows, ranks, _), up in zip(self._adapted, self._ups, strict=True):
            outputs[:, rows].addmm_(low[:, ranks], up.T)
        return outputs if self._bias is None else outputs.add_(self._bias)

    def _back(self, gradient: Float[Tensor, "row out"], *, at_x: bool) -> tuple[Tensor | None, Tensor]:
        back = gradient.new_empty(len(gradient), self._rank)
        for (rows, ranks, _), up in zip(self._adapted, self._ups, strict=True):
            torch.mm(gradient[:, rows], up, out=back[:, ranks])
        if not at_x:
            return None, back
        at_tokens = back @ self._down
        for rows, weight in self._weights:
            at_tokens.addmm_(gradient[:, rows], weight)
        return at_tokens, back


def adapters(layers: Sequence[Layer]) -> list[Tensor]:
    """Down and up of each adapter in turn, at which `LoraStack.backward` returns the gradients."""
    return [part for layer in layers for part in (layer.down, layer.up) if part is not None]
