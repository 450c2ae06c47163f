"""Causal attention of many short rows by batched products, with a hand-written backward pass.

For rows of a few dozen tokens the flash kernel's bookkeeping costs more than the arithmetic. Queries that share a key
head are next to each other, so nothing is copied for grouped queries. The common beginning of all rows is scored
against all of them in one further product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from dec2vec.decoder.shared_prefix import SharedLayer
from dec2vec.decoder.varlen import EDGES, attend

PACKED = (EDGES, "max_length_q")
LONGEST = 64
"""Most tokens of a row, and LONGEST_PREFIX of a common beginning; for more the flash kernel is as fast."""
LONGEST_PREFIX = 256


def by_token(heads: Float[Tensor, "head batch rows dim"], group: int) -> Float[Tensor, "batch time head group dim"]:
    """A view of the same numbers; a row holds `group` heads of each token."""
    count, batch, rows, dim = heads.shape
    return heads.view(count, batch, rows // group, group, dim).permute(1, 2, 0, 3, 4)


def grouped(heads: Float[Tensor, "batch time all dim"], group: int) -> Float[Tensor, "batch time head group dim"]:
    """A view with the heads that share a key apart."""
    batch, time, count, dim = heads.shape
    return heads.view(batch, time, count // group, group, dim)


def heads_first(tokens: Float[Tensor, "batch time head group dim"]) -> Float[Tensor, "head batch rows dim"]:
    """New memory of which `by_token` gives a view like `tokens`."""
    batch, time, count, group, dim = tokens.shape
    return tokens.new_empty(count, batch, time * group, dim)


class ShortAttention(torch.autograd.Function):
    """(batch, time, heads * dim) from queries (key head, batch, time * group, dim), keys and values (key head, batch,
    time, dim), and the keys and values of the common beginning (1, key head, prefix, dim) if there is one.

    `mask` is added to the logits: (1 or batch, time * group, time). The beginning is not masked.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        first_key: Tensor | None,
        first_value: Tensor | None,
        mask: Tensor,
        scale: float,
        group: int,
    ) -> Tensor:
        heads, batch, time, _ = key.shape
        rows = query.shape[2]
        added = mask.expand(batch, rows, time).repeat(heads, 1, 1) if len(mask) > 1 else mask
        scores = torch.baddbmm(added, query.flatten(0, 1), key.flatten(0, 1).mT, alpha=scale)
        if first_key is not None:
            common = torch.bmm(query.flatten(1, 2), first_key[0].mT).mul_(scale)
            scores = torch.cat([common.view(heads * batch, rows, -1), scores], dim=2)
        shares = torch.softmax(scores, dim=2)
        output = torch.bmm(shares[:, :, -time:], value.flatten(0, 1)).view_as(query)
        if first_value is not None:
            output.flatten(1, 2).baddbmm_(_common(shares, heads, time), first_value[0])
        ctx.save_for_backward(query, key, value, first_key, first_value, shares)
        ctx.scale, ctx.group = scale, group
        return by_token(output, group).reshape(batch, rows // group, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, first_key, first_value, shares = ctx.saved_tensors
        heads, _, time, _ = key.shape
        at_output = torch.empty_like(query)
        tokens = by_token(at_output, ctx.group)
        tokens.copy_(gradients[0].reshape(tokens.shape))
        at_shares = torch.bmm(at_output.flatten(0, 1), value.flatten(0, 1).mT)
        if first_value is not None:
            common = torch.bmm(at_output.flatten(1, 2), first_value[0].mT)
            at_shares = torch.cat([common.view(*at_shares.shape[:2], -1), at_shares], dim=2)
        at_scores = torch._softmax_backward_data(at_shares, shares, 2, shares.dtype).mul_(ctx.scale)
        at_rows, row_shares = at_scores[:, :, -time:], shares[:, :, -time:]
        at_query = torch.bmm(at_rows, key.flatten(0, 1)).view_as(query)
        at_key = torch.bmm(at_rows.mT, query.flatten(0, 1)).view_as(key)
        at_value = torch.bmm(row_shares.mT, at_output.flatten(0, 1)).view_as(value)
        if first_key is None:
            return at_query, at_key, at_value, None, None, None, None, None
        common, share = _common(at_scores, heads, time), _common(shares, heads, time)
        at_query.flatten(1, 2).baddbmm_(common, first_key[0])
        at_first_key = torch.bmm(common.mT, query.flatten(1, 2))[None]
        at_first_value = torch.bmm(share.mT, at_output.flatten(1, 2))[None]
        return at_query, at_key, at_value, at_first_key, at_first_value, None, None, None


def _common(scores: Float[Tensor, "headbatch rows seen"], heads: int, time: int) -> Float[Tensor, "head all prefix"]:
    """The columns of the common beginning, for all rows of a head."""
    common = scores[:, :, :-time]
    return common.view(heads, -1, *common.shape[1:]).flatten(1, 2)


def causal_mask(time: int, group: int, like: Tensor) -> Float[Tensor, "1 rows time"]:
    """0 at tokens that a token attends to, -inf at those that come after it."""
    mask = torch.full((time, time), -torch.inf, dtype=like.dtype, device=like.device).triu_(1)
    return mask.repeat_interleave(group, 0)[None]


def is_cpu(device: torch.device) -> bool:
    """Whether attention is computed in float32, and that of short rows here; tests pretend otherwise."""
    return device.type == "cpu"


Parts = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values: laid out for `ShortAttention`, or (batch, time, head, dim)."""


@dataclass(frozen=True, eq=False)
class BlockAttention:
    """One block's attention in one forward pass."""

    module: Any
    cache: Any
    shared: SharedLayer | None
    """Keys and values of the common beginning of all rows."""
    short: bool
    dtype: torch.dtype
    """What the decoder's own attention is computed in."""
    packed: Mapping[str, Any]
    """Where texts without padding begin and end, for `attend`; empty if rows are padded."""

    @classmethod
    def from_module(cls, module: Any, x: Tensor, dtype: torch.dtype, arguments: Mapping[str, Any]) -> BlockAttention:
        """Use `ShortAttention` for short rows on CPUs, with or without a common beginning.

        On an accelerator attention is computed in the `dtype` of the products, as autocast does: the kernels for long
        rows take 16 bits only.
        """
        cache = arguments["past_key_values"]
        packed = {name: arguments[name] for name in PACKED if name in arguments}
        layers = [] if cache is None else cache.layers[module.layer_idx : module.layer_idx + 1]
        shared = layers[0] if layers and isinstance(layers[0], SharedLayer) else None
        fits = cache is None if shared is None else shared.row_keys.shape[2] <= LONGEST_PREFIX
        on_cpu = is_cpu(x.device)
        short = on_cpu and x.shape[1] <= LONGEST and fits and not packed
        return cls(module, cache, shared, short, torch.float32 if on_cpu else dtype, packed)

    def of_all(self, parts: Parts, time: int, mask: Tensor | None) -> Tensor:
        """(batch, time, heads * dim): every token attends to those before it, as the decoder's `mask` says too."""
        if self.short:
            return self._short(parts, causal_mask(time, self._group, parts[0]))
        return self._decoders(parts, mask)

    def at(self, parts: Parts, positions: Int[Tensor, " batch"], time: int) -> Tensor:
        """(batch, 1, heads * dim): for queries at one position of each row."""
        if self.short:
            seen = _until(positions, time)
            mask = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
            return self._short(parts, mask[:, None].expand(-1, self._group, -1))
        before = 0 if self.cache is None else int(self.cache.get_seq_length(self.module.layer_idx))
        return self._decoders(parts, _until(positions + before, time + before)[:, None, None])

    @property
    def _group(self) -> int:
        """Queries that share a key."""
        return int(self.module.num_key_value_groups)

    def _short(self, parts: Parts, mask: Tensor) -> Tensor:
        first = (None, None) if self.shared is None else (self.shared.row_keys, self.shared.row_values)
        output: Tensor = ShortAttention.apply(  # type: ignore[no-untyped-call]
            *parts, *first, mask, self.module.scaling, self._group
        )
        return output

    def _decoders(self, parts: Parts, mask: Tensor | None) -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in parts)
        if self.cache is not None:
            key, value = self.cache.update(key, value, self.module.layer_idx)
        query, key, value = (part.to(self.dtype) for part in (query, key, value))
        scale = self.module.scaling
        if self.packed:
            attended, _ = attend(self.module, query, key, value, None, scale, **self.packed)
        else:
            attended, _ = sdpa_attention_forward(self.module, query, key, value, mask, scaling=scale)
        output: Tensor = attended.flatten(2)
        return output


def _until(positions: Int[Tensor, " batch"], time: int) -> Bool[Tensor, "batch time"]:
    return torch.arange(time, device=positions.device) <= positions[:, None]
