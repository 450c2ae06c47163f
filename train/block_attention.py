"""Which attention a block's heads go through: batched products for short rows, else the decoder's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from dec2vec.shared_prefix import SharedLayer
from train.short_attention import LONGEST, LONGEST_PREFIX, ShortAttention, causal_mask

Parts = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values: laid out for `ShortAttention`, or (batch, time, head, dim)."""


@dataclass(frozen=True, eq=False)
class BlockAttention:
    """One block's attention in one forward pass."""

    module: Any
    cache: Any
    shared: SharedLayer | None
    """Keys and values that all rows have before their own."""
    short: bool

    @classmethod
    def of(cls, module: Any, x: Tensor, cache: Any) -> BlockAttention:
        """Short rows, also behind a common beginning, have a way of their own on CPUs."""
        known = [] if cache is None else cache.layers[module.layer_idx : module.layer_idx + 1]
        shared = known[0] if known and isinstance(known[0], SharedLayer) else None
        fits = cache is None if shared is None else shared.row_keys.shape[2] <= LONGEST_PREFIX
        return cls(module, cache, shared, x.device.type == "cpu" and x.shape[1] <= LONGEST and fits)

    def of_all(self, parts: Parts, time: int, mask: Tensor | None) -> Tensor:
        """(batch, time, heads * dim): every token sees those before it, as the decoder's `mask` says too."""
        if self.short:
            return self._short(parts, causal_mask(time, self._group, parts[0]))
        return self._decoders(parts, mask)

    def at(self, parts: Parts, places: Int[Tensor, " batch"], time: int) -> Tensor:
        """(batch, 1, heads * dim): of queries at one place of each row."""
        if self.short:
            seen = _until(places, time)
            mask = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, -torch.inf)
            return self._short(parts, mask[:, None].expand(-1, self._group, -1))
        before = 0 if self.cache is None else int(self.cache.get_seq_length(self.module.layer_idx))
        return self._decoders(parts, _until(places + before, time + before)[:, None, None])

    @property
    def _group(self) -> int:
        """Queries that share a key."""
        return int(self.module.num_key_value_groups)

    def _short(self, parts: Parts, mask: Tensor) -> Tensor:
        first = (None, None) if self.shared is None else (self.shared.row_keys, self.shared.row_values)
        found: Tensor = ShortAttention.apply(  # type: ignore[no-untyped-call]
            *parts, *first, mask, self.module.scaling, self._group
        )
        return found

    def _decoders(self, parts: Parts, mask: Tensor | None) -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in parts)
        if self.cache is not None:
            key, value = self.cache.update(key, value, self.module.layer_idx)
        attended, _ = sdpa_attention_forward(self.module, query, key, value, mask, scaling=self.module.scaling)
        found: Tensor = attended.flatten(2)
        return found


def _until(places: Int[Tensor, " batch"], time: int) -> Bool[Tensor, "batch time"]:
    return torch.arange(time, device=places.device) <= places[:, None]
