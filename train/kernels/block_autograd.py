"""The two halves of a decoder block, before and after attention, each with a hand-written backward pass.

q, k and v are one matrix product, gate and up another; both include the adapters, and in float32 also the norms'
weights (`train.kernels.lora_stack`). Only those activations are kept that the backward pass reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from train.kernels.lora_stack import LoraStack
from train.kernels.short_attention import by_token, grouped, heads_first


def unit_rms(x: Float[Tensor, "... dim"], epsilon: float) -> tuple[Float[Tensor, "... dim"], Float[Tensor, "... 1"]]:
    """`x` divided by its root mean square, and 1 / that."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return x * inverse, inverse


def unit_rms_backward(
    gradient: Float[Tensor, "... dim"], normed: Float[Tensor, "... dim"], inverse: Float[Tensor, "... 1"]
) -> Float[Tensor, "... dim"]:
    """The gradient at x; it overwrites the gradient at x / rms(x)."""
    along = (gradient * normed).mean(-1, keepdim=True)
    return gradient.addcmul_(normed, along, value=-1).mul_(inverse)


def rotate(
    x: Float[Tensor, "batch time head group dim"], angles: Sequence[Tensor], out: Tensor, *, back: bool = False
) -> Tensor:
    """Rotary positions (Su et al. 2021) by halves of a head, as in Llama; `back` rotates the other way."""
    cosine, sine = angles
    half = x.shape[-1] // 2
    sign = -1.0 if back else 1.0
    torch.mul(x, cosine, out=out)
    out[..., :half].addcmul_(x[..., half:], sine, value=-sign)
    out[..., half:].addcmul_(x[..., :half], sine, value=sign)
    return out


@dataclass(frozen=True, eq=False)
class Heads:
    """How the outputs of a product divide into heads of `dim` components: queries, keys, then values."""

    queries: int
    keys: int
    values: int
    dim: int
    group: int
    """Queries that share a key."""
    first: bool
    """Whether heads are laid out for `train.kernels.short_attention`; else they are (batch, time, head, dim)."""
    scales: Float[Tensor, "rotated dim"] | None
    """Weights of the norms over the components of a query or key, in families that have them."""
    epsilon: float

    @property
    def rotated(self) -> int:
        """Heads that get rotary positions."""
        return self.queries + self.keys

    def split(self, heads: Float[Tensor, "batch time head dim"]) -> list[tuple[Tensor, int]]:
        """Queries, keys and values, and how many of each share a key."""
        edges = self.queries, self.rotated
        parts = heads[:, :, : edges[0]], heads[:, :, edges[0] : edges[1]], heads[:, :, edges[1] :]
        return list(zip(parts, (self.group, 1, 1), strict=True))

    def memory(self, heads: Float[Tensor, "batch time head dim"], group: int) -> tuple[Tensor, Tensor]:
        """New memory for some heads in the layout of `first`, and a view of it like `heads`, with the groups apart."""
        apart = grouped(heads, group)
        room = heads_first(apart) if self.first else apart.new_empty(apart.shape)
        return (room, by_token(room, group)) if self.first else (room.flatten(2, 3), room)

    def shown(self, room: Tensor, group: int) -> Tensor:
        """The same view of memory that `memory` has made."""
        return by_token(room, group) if self.first else grouped(room, group)


class FusedQKV(torch.autograd.Function):
    """Norm, one product for all heads, norms of heads, rotary positions: queries, keys, values."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor, stack: LoraStack, heads: Heads, epsilon: float, *_: Tensor
    ) -> tuple[Tensor, ...]:
        normed, inverse = unit_rms(x.reshape(-1, x.shape[-1]), epsilon)
        inputs = stack.prepare_inputs(normed)
        outputs = stack(inputs)[: len(normed)].float().view(*x.shape[:2], -1, heads.dim)
        saved: tuple[Tensor, ...] = (inputs, normed, inverse, cosine, sine)
        if heads.scales is not None:
            turned, lengths = unit_rms(outputs[:, :, : heads.rotated], heads.epsilon)
            saved += turned, lengths
            torch.mul(turned, heads.scales, out=outputs[:, :, : heads.rotated])
        ctx.save_for_backward(*saved)
        ctx.stack, ctx.heads, ctx.shape = stack, heads, x.shape[:2]
        rooms = []
        for number, (part, group) in enumerate(heads.split(outputs)):
            room, target = heads.memory(part, group)
            part = grouped(part, group)
            rotate(part, (cosine, sine), target) if number < 2 else target.copy_(part)
            rooms.append(room)
        return tuple(rooms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs, normed, inverse, cosine, sine, *of_heads = ctx.saved_tensors
        stack, heads, (batch, time) = ctx.stack, ctx.heads, ctx.shape
        at_outputs = normed.new_empty(batch, time, heads.rotated + heads.values, heads.dim)
        for number, ((part, group), gradient) in enumerate(zip(heads.split(at_outputs), gradients, strict=True)):
            target, gradient = grouped(part, group), heads.shown(gradient, group)
            rotate(gradient, (cosine, sine), target, back=True) if number < 2 else target.copy_(gradient)
        if of_heads:
            unit_rms_backward(at_outputs[:, :, : heads.rotated].mul_(heads.scales), *of_heads)
        at_x, at_adapters = stack.backward(inputs, at_outputs.view(len(normed), -1), at_x=ctx.needs_input_grad[0])
        if at_x is not None:
            at_x = unit_rms_backward(stack.gradient_at_x(at_x, len(normed)), normed, inverse).view(batch, time, -1)
        return at_x, None, None, None, None, None, *at_adapters


class FusedMLP(torch.autograd.Function):
    """What follows attention: its output product, and the whole MLP, each added to its input."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        attended: Tensor,
        out: LoraStack,
        gates: LoraStack,
        down: LoraStack,
        epsilon: float,
        *_: Tensor,
    ) -> Tensor:
        attended = out.prepare_inputs(attended.flatten(0, 1))
        middle = out.added(x.reshape(-1, x.shape[-1]), attended)
        normed, inverse = unit_rms(middle, epsilon)
        inputs = gates.prepare_inputs(normed)
        both = gates(inputs)
        gate, up = both.chunk(2, dim=1)
        active = F.silu(gate)
        result = down.added(middle, down.prepare_inputs(active * up))
        ctx.save_for_backward(attended, inputs, normed, inverse, both, active)
        ctx.stacks = out, gates, down
        return result.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        attended, inputs, normed, inverse, both, active = ctx.saved_tensors
        out, gates, down = ctx.stacks
        (gradient,) = gradients
        flat = gradient.reshape(len(normed), -1)
        gate, up = both.chunk(2, dim=1)
        at_inner, at_down = down.backward(down.prepare_inputs(active * up), flat, at_x=True)
        at_both = torch.empty_like(both)
        torch.mul(at_inner, active, out=at_both[:, up.shape[1] :])
        torch.ops.aten.silu_backward.grad_input(at_inner.mul_(up), gate, grad_input=at_both[:, : up.shape[1]])
        at_inputs, at_gates = gates.backward(inputs, at_both, at_x=True)
        at_middle = unit_rms_backward(gates.gradient_at_x(at_inputs, len(normed)), normed, inverse).add_(flat)
        at_attended, at_out = out.backward(attended, at_middle, at_x=ctx.needs_input_grad[1])
        if at_attended is not None:
            at_attended = out.gradient_at_x(at_attended, len(flat)).view(*gradient.shape[:2], -1)
        at_x = at_middle.view(gradient.shape)
        return at_x, at_attended, None, None, None, None, *at_out, *at_gates, *at_down
