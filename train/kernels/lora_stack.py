"""Frozen linear layers that read one input, as one product: weights and adapters side by side.

What depends on the weights alone is made once a step; the gradients at the adapters are thin products by hand.

In float32 the adapters are merged, W' = W + s B A, and so are the weights by which the norm before them scales every
component of the input. In bfloat16 W' would lose what is small beside W, of weights that came in bfloat16 all of it; so
the adapters are appended, [x, x A^T] times [W, s B], and nothing is rounded that autocast would not round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from train.kernels.lora_linear import FastLinear

_ROWS = 64
"""Rows of products in 16 bits are a multiple of this. Their kernels are made for one shape, in the time that a product
takes, and kept for a thousand shapes: with chunks of any length there would be more."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A frozen layer and its adapter's matrices: down (rank, in) and up (out, rank); None where it has none."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None
    down: Tensor | None
    up: Tensor | None
    scale: float

    @classmethod
    def of(cls, module: nn.Module) -> Layer | None:
        """None where the module is anything else than a frozen product with at most one plain adapter."""
        if isinstance(module, FastLinear):
            adapter = module.plain_adapter()
            base = module.base_layer
            return None if adapter is None else cls(base.weight, base.bias, *adapter)
        if type(module) is not nn.Linear or any(parameter.requires_grad for parameter in module.parameters()):
            return None
        return cls(module.weight, module.bias, None, None, 1.0)

    @property
    def tensors(self) -> list[Tensor]:
        """All that the layer's product depends on."""
        return [part for part in (self.weight, self.bias, self.down, self.up) if part is not None]

    def merged(self) -> Float[Tensor, "out in"]:
        """W + s B A."""
        if self.down is None or self.up is None:
            return self.weight.detach()
        return torch.addmm(self.weight.detach(), self.up.detach(), self.down.detach(), alpha=self.scale)


class Stack(ABC):
    """The layers of one input as they are at this moment: what their product reads, gives, and hands back."""

    def __init__(self, layers: Sequence[Layer], norm: Tensor | None) -> None:
        biases = [layer.bias for layer in layers]
        self._bias = None if any(bias is None for bias in biases) else torch.cat([b for b in biases if b is not None])
        self._norm = norm
        self._adapted: list[tuple[slice, slice, float]] = []  # among the outputs, among all ranks, and the scale
        row = rank = 0
        for layer in layers:
            if layer.down is not None:
                places = slice(row, row + len(layer.weight)), slice(rank, rank + len(layer.down))
                self._adapted.append((*places, layer.scale))
                rank += len(layer.down)
            row += len(layer.weight)
        self._rank = rank

    @staticmethod
    def of(layers: Sequence[Layer], norm: Tensor | None, dtype: torch.dtype) -> Stack:
        """With products in `dtype`."""
        return Merged(layers, norm) if dtype == torch.float32 else Appended(layers, norm, dtype)

    @abstractmethod
    def inputs(self, x: Float[Tensor, "token in"]) -> Float[Tensor, "row read"]:
        """What the product reads and the backward pass wants back; `x` without the norm's weight."""

    @abstractmethod
    def __call__(self, inputs: Float[Tensor, "row read"]) -> Float[Tensor, "row out"]:
        """The layers' outputs side by side, as the product gives them."""

    @abstractmethod
    def added(self, x: Float[Tensor, "token out"], inputs: Float[Tensor, "row read"]) -> Float[Tensor, "token out"]:
        """The outputs added to a float32 `x`."""

    @abstractmethod
    def backward(
        self, inputs: Float[Tensor, "row read"], gradient: Float[Tensor, "some out"], *, at_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """The gradients at what was read for x, and at down and up of each adapter in turn."""

    @abstractmethod
    def gradient_at_x(self, gradient: Float[Tensor, "row in"], tokens: int) -> Float[Tensor, "token in"]:
        """The gradient at x in float32, without the norm's weight, from that at what was read for it."""


class Merged(Stack):
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

    def inputs(self, x: Float[Tensor, "token in"]) -> Float[Tensor, "token in"]:
        """Themselves."""
        return x

    def __call__(self, inputs: Float[Tensor, "token in"]) -> Float[Tensor, "token out"]:
        """x W'^T + b."""
        return F.linear(inputs, self.weight, self._bias)

    def added(self, x: Float[Tensor, "token out"], inputs: Float[Tensor, "token in"]) -> Float[Tensor, "token out"]:
        """In one operator."""
        found = torch.addmm(x, inputs, self.weight.T)
        return found if self._bias is None else found.add_(self._bias)

    def backward(
        self, inputs: Float[Tensor, "token in"], gradient: Float[Tensor, "token out"], *, at_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Of the adapters without a gradient at W'."""
        return gradient @ self.weight if at_x else None, self._gradients(inputs, gradient)

    def gradient_at_x(self, gradient: Float[Tensor, "token in"], tokens: int) -> Float[Tensor, "token in"]:
        """Itself."""
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


class Appended(Stack):
    """Products in 16 bits, by [W, s B] from [x, x A^T]."""

    @torch.no_grad()
    def __init__(self, layers: Sequence[Layer], norm: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__(layers, norm)
        weight = torch.cat([layer.weight for layer in layers])
        downs = [layer.down for layer in layers if layer.down is not None]
        self._dim = weight.shape[1]
        self._down = (torch.cat(downs) if downs else weight[:0]).to(dtype)
        self._bias = None if self._bias is None else self._bias.to(dtype)
        self._weight = weight.new_zeros(len(weight), self._dim + self._rank, dtype=dtype)
        self._weight[:, : self._dim] = weight
        ups = [layer.up for layer in layers if layer.up is not None]
        for (rows, ranks, scale), up in zip(self._adapted, ups, strict=True):
            self._low(self._weight)[rows, ranks] = up * scale

    def inputs(self, x: Float[Tensor, "token in"]) -> Float[Tensor, "row read"]:
        """[x, x A^T]."""
        found = self._filled(x if self._norm is None else x * self._norm, self._weight.shape[1])
        torch.mm(found[:, : self._dim], self._down.T, out=self._low(found))
        return found

    def __call__(self, inputs: Float[Tensor, "row read"]) -> Float[Tensor, "row out"]:
        """In 16 bits."""
        return F.linear(inputs, self._weight, self._bias)

    def added(self, x: Float[Tensor, "token out"], inputs: Float[Tensor, "row read"]) -> Float[Tensor, "token out"]:
        """The sum in float32."""
        return self(inputs)[: len(x)].float().add_(x)

    def backward(
        self, inputs: Float[Tensor, "row read"], gradient: Float[Tensor, "some out"], *, at_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """One product for x and the adapters' low side."""
        if len(gradient) < len(inputs) or gradient.dtype != inputs.dtype:
            gradient = self._filled(gradient, gradient.shape[1])
        if not at_x:
            return None, self._gradients(inputs, gradient, gradient @ self._low(self._weight))
        whole = gradient @ self._weight
        back = self._low(whole)
        found = whole[:, : self._dim].addmm(back, self._down) if self._rank else whole
        return found, self._gradients(inputs, gradient, back)

    def gradient_at_x(self, gradient: Float[Tensor, "row in"], tokens: int) -> Float[Tensor, "token in"]:
        """In new memory."""
        found = gradient[:tokens].float()
        return found if self._norm is None else found.mul_(self._norm)

    def _low(self, whole: Float[Tensor, "some read"]) -> Float[Tensor, "some rank"]:
        """What is appended."""
        return whole[:, self._dim :]

    def _filled(self, x: Float[Tensor, "token width"], width: int) -> Float[Tensor, "row {width}"]:
        """`x` as products want it, in the first columns of new memory; rows beyond it are zero."""
        rows = -(-len(x) // _ROWS) * _ROWS
        found = x.new_empty(rows, width, dtype=self._weight.dtype)
        found[: len(x), : x.shape[1]].copy_(x)
        found[len(x) :, : x.shape[1]].zero_()
        return found

    def _gradients(self, inputs: Tensor, gradient: Tensor, back: Float[Tensor, "row rank"]) -> list[Tensor]:
        """At down and up of each adapter in turn; `back` is the gradient at x A^T."""
        if not self._adapted:
            return []
        low, downs = self._low(inputs), (back.T @ inputs[:, : self._dim]).float()
        found = []
        for rows, ranks, scale in self._adapted:
            up = (low[:, ranks].T @ gradient[:, rows]).float().mul_(scale)  # transposed: as in Merged
            found += [downs[ranks], up.T.contiguous()]
        return found


def adapters(layers: Sequence[Layer]) -> list[Tensor]:
    """Down and up of each adapter in turn: what `Stack.backward` gives the gradients at."""
    return [part for layer in layers for part in (layer.down, layer.up) if part is not None]
