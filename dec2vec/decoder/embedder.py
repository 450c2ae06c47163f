"""The differentiable part of an encoder: padded ids -> pooled states. Training wraps this module in DDP."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from dec2vec.decoder.bidirectional import full_attention, is_bidirectional
from dec2vec.decoder.last_token_block import can_skip_tokens, only_at
from dec2vec.decoder.layers import decoder_blocks, final_norm, inner_states
from dec2vec.decoder.pooling import View, layers_of, pool
from dec2vec.decoder.shared_prefix import SharedPrefix
from dec2vec.decoder.varlen import PackedSequences, attending_within_rows


class Embedder(nn.Module):
    """A decoder (or its PEFT wrapper) and the view that is read from it.

    No attention mask and no position ids are passed: rows are padded on the right and attention is causal, so every
    real token sees exactly what it would see alone (positions 0..n-1), and the fast causal kernels apply. Only where
    `model.bidirectional` has turned the decoder is there a mask.
    """

    def __init__(self, backbone: nn.Module, view: View, layer_count: int, *, autocast: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.view = view
        self.layer_count = layer_count
        self.autocast = autocast
        self.narrow = True
        """Off: the last block needed runs whole at every token, which the narrow one is proved equal to."""
        self.unpadded = False
        """On: texts without a common beginning run end to end, where `train.adapters.capabilities` finds that they can.
        """

    def forward(
        self,
        input_ids: Int[Tensor, "batch time"],
        lengths: Int[Tensor, batch],
        views: Sequence[View] = (),
        starts: Int[Tensor, batch] | None = None,
        prefix: SharedPrefix | None = None,
    ) -> list[Float[Tensor, "batch dim"]]:
        """One float32 tensor a view (the module's own view when none is named), all from one forward pass.

        Pooling reads a row from its start on (None: from its first token). With a `prefix`, `input_ids` and `lengths`
        are of what follows it; starts count from the row's real beginning.
        """
        asked = list(views) or [self.view]
        cache = None if prefix is None else prefix.expanded(len(input_ids))
        block = self._narrowed_block(asked)
        laid = PackedSequences.of(lengths, input_ids.shape[1]) if self.unpadded and prefix is None else None
        ends = lengths - 1 if laid is None else laid.ends
        with contextlib.nullcontext() if block is None else only_at(block, ends):
            if laid is None:
                full = full_attention(self.backbone, lengths, input_ids.shape[1])
                states = self._hidden_states(input_ids, asked, cache, full)
            else:
                with attending_within_rows(self.backbone):
                    states = self._hidden_states(laid.ids(input_ids), asked, None, laid.arguments)
        if laid is not None and block is None:
            states = {index: laid.padded(own) for index, own in states.items()}
        if block is not None:
            lengths = torch.ones_like(lengths)
        elif prefix is not None:
            states, lengths = prefix.before(states), lengths + prefix.length
        normed = self._normed(states, asked)
        return [pool(normed if view.norm else states, lengths, view, self.layer_count, starts) for view in asked]

    def _narrowed_block(self, views: Sequence[View]) -> nn.Module | None:
        """The block whose output all views read at the last token alone; None where there is none."""
        wanted = self.wanted_layers(views)
        if not self.narrow or len(wanted) > 1 or wanted == {0} or any(view.pooling != "last" for view in views):
            return None
        if is_bidirectional(self.backbone):
            return None
        blocks = decoder_blocks(self.backbone, self.layer_count)
        block = None if blocks is None else blocks[max(wanted) - 1]
        return block if block is not None and can_skip_tokens(self.backbone, block) else None

    def _normed(self, states: Mapping[int, Tensor], views: Sequence[View]) -> Mapping[int, Tensor]:
        """The states with the final norm applied to the inner ones that views ask it for."""
        inner = set().union(*(layers_of(view, self.layer_count) for view in views if view.norm)) - {self.layer_count}
        if not inner:
            return states
        norm = final_norm(self.backbone, self.layer_count)
        with torch.autocast(next(iter(states.values())).device.type, torch.bfloat16, enabled=self.autocast):
            return {**states, **{index: norm(states[index]) for index in inner}}

    def read_prefix(self, input_ids: Int[Tensor, " prefix"], views: Sequence[View]) -> SharedPrefix:
        """Run what all texts begin with, as far up as the views read."""
        cache = DynamicCache()
        states = self._hidden_states(input_ids[None], views, cache, {})
        return SharedPrefix(len(input_ids), cache, states)

    def wanted_layers(self, views: Sequence[View]) -> set[int]:
        """Indices of the hidden states that the views read."""
        return set().union(*(layers_of(view, self.layer_count) for view in views))

    def _hidden_states(
        self,
        input_ids: Int[Tensor, "batch time"],
        views: Sequence[View],
        cache: DynamicCache | None,
        more: Mapping[str, Any],
    ) -> Mapping[int, Tensor]:
        """The hidden states that the views read; no block above the highest of them runs."""
        inputs = {"input_ids": input_ids, "past_key_values": cache, "use_cache": cache is not None, **more}
        wanted = self.wanted_layers(views)
        with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=self.autocast):
            blocks = decoder_blocks(self.backbone, self.layer_count) if max(wanted) < self.layer_count else None
            if blocks is not None:
                return inner_states(self.backbone, blocks, wanted, **inputs)
            inner = wanted != {self.layer_count}
            output = self.backbone(**inputs, output_hidden_states=inner)
        states = dict(enumerate(output.hidden_states)) if inner else {}
        return {index: states[index] for index in wanted if index < self.layer_count} | {
            self.layer_count: output.last_hidden_state
        }
