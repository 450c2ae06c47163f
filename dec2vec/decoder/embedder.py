"""The differentiable part of an encoder: padded ids to pooled states. Training may wrap this module in DDP."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from dec2vec.decoder.bidirectional import full_attention, is_bidirectional
from dec2vec.decoder.dense_head import DenseHead
from dec2vec.decoder.last_token_block import can_skip_tokens, only_at
from dec2vec.decoder.layers import decoder_blocks, final_norm, inner_states
from dec2vec.decoder.pooling import View, layers_of, pool
from dec2vec.decoder.shared_prefix import SharedPrefix
from dec2vec.decoder.varlen import PackedSequences, attending_within_rows
from dec2vec.decoder.vision import ReadImage, input_arguments
from dec2vec.errors import UserError


class Embedder(nn.Module):
    """A decoder, perhaps wrapped by PEFT, and the view that is pooled from it.

    No attention mask and no position ids are passed: rows are padded on the right and attention is causal, so every
    real token sees what it would see alone (positions 0 to n - 1), and the fast causal kernels apply. There is a mask
    only with `model.bidirectional`, and what `vision` says for inputs with images.
    """

    def __init__(
        self,
        backbone: nn.Module,
        view: View,
        layer_count: int,
        *,
        autocast: torch.dtype | None,
        head: DenseHead | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        """The Dense layers of a published embedder or of a run, which only views with `dense` use."""
        self.view = view
        self.layer_count = layer_count
        self.autocast = autocast
        """The dtype of matrix products; None without autocast."""
        self.narrow = True
        """If off, the highest block that is needed runs at every token instead of the last one only."""
        self.passes_are_collective = False
        """Whether other processes take part in each pass, because the weights are sharded; an engine sets it."""
        self.unpadded = False
        """If on, texts without a common beginning are packed. `train.adapters.capabilities` says when that is possible.
        """

    def put_head(self, head: DenseHead) -> None:
        """Use these Dense layers behind the module's own view."""
        self.head = head
        self.view = replace(self.view, dense=True)

    def forward(
        self,
        input_ids: Int[Tensor, "batch time"],
        lengths: Int[Tensor, batch],
        views: Sequence[View] = (),
        starts: Int[Tensor, batch] | None = None,
        prefix: SharedPrefix | None = None,
        images: Sequence[ReadImage] | None = None,
    ) -> list[Float[Tensor, "batch _dim"]]:
        """One float32 tensor for each view, all from one forward pass; without `views`, for the module's own view.

        Pooling begins at a row's start, or at its first token without `starts`. With a `prefix`, `input_ids` and
        `lengths` do not include it, but `starts` count from its first token. An id of -1 - k stands for `images[k]`.
        """
        views = list(views) or [self.view]
        cache = None if prefix is None else prefix.expanded(len(input_ids))
        block = self._narrowed_block(views)
        packs = self.unpadded and prefix is None and not images
        packed = PackedSequences.from_lengths(lengths, input_ids.shape[1]) if packs else None
        ends = lengths - 1 if packed is None else packed.ends
        with contextlib.nullcontext() if block is None else only_at(block, ends):
            if packed is None:
                more = full_attention(self.backbone, lengths, input_ids.shape[1])
                more |= input_arguments(self.backbone, input_ids, lengths, images)
                states = self._hidden_states(input_ids, views, cache, more)
            else:
                with attending_within_rows(self.backbone):
                    states = self._hidden_states(packed.ids(input_ids), views, None, packed.arguments)
        if packed is not None and block is None:
            states = {index: packed.padded(tokens) for index, tokens in states.items()}
        if block is not None:
            lengths = torch.ones_like(lengths)
        elif prefix is not None:
            states, lengths = prefix.before(states), lengths + prefix.length
        normed = self._normed(states, views)
        return [
            self._finished(pool(normed if view.norm else states, lengths, view, self.layer_count, starts), view)
            for view in views
        ]

    def _finished(self, pooled: Tensor, view: View) -> Tensor:
        """The pooled vectors, after the Dense layers if the view has them."""
        if not view.dense:
            return pooled
        assert self.head is not None
        vectors: Tensor = self.head(pooled)
        return vectors

    def _narrowed_block(self, views: Sequence[View]) -> nn.Module | None:
        """The block whose output all views need at the last token only; None if there is no such block."""
        wanted = self.wanted_layers(views)
        if not self.narrow or len(wanted) > 1 or wanted == {0} or any(view.pooling != "last" for view in views):
            return None
        if is_bidirectional(self.backbone):
            return None
        blocks = decoder_blocks(self.backbone, self.layer_count)
        block = None if blocks is None else blocks[max(wanted) - 1]
        return block if block is not None and can_skip_tokens(self.backbone, block) else None

    def _normed(self, states: Mapping[int, Tensor], views: Sequence[View]) -> Mapping[int, Tensor]:
        """The states, with the final norm applied to inner ones that a view needs normalized."""
        inner = set().union(*(layers_of(view, self.layer_count) for view in views if view.norm)) - {self.layer_count}
        if not inner:
            return states
        norm = final_norm(self.backbone, self.layer_count)
        with self._autocast(next(iter(states.values())).device):
            return {**states, **{index: norm(states[index]) for index in inner}}

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None)

    def read_prefix(self, input_ids: Int[Tensor, " prefix"], views: Sequence[View]) -> SharedPrefix:
        """Run the common beginning of all texts, up to the highest layer that the views need."""
        cache = DynamicCache()
        states = self._hidden_states(input_ids[None], views, cache, {})
        return SharedPrefix(len(input_ids), cache, states)

    def wanted_layers(self, views: Sequence[View]) -> set[int]:
        """The indices of the hidden states that the views need."""
        return set().union(*(layers_of(view, self.layer_count) for view in views))

    def _hidden_states(
        self,
        input_ids: Int[Tensor, "batch time"],
        views: Sequence[View],
        cache: DynamicCache | None,
        more: Mapping[str, Any],
    ) -> Mapping[int, Tensor]:
        """The hidden states that the views need. Blocks above the highest of them are not run."""
        inputs = {"input_ids": input_ids, "past_key_values": cache, "use_cache": cache is not None, **more}
        wanted = self.wanted_layers(views)
        with self._autocast(input_ids.device):
            blocks = decoder_blocks(self.backbone, self.layer_count)
            if blocks is not None:
                return inner_states(self.backbone, blocks, wanted, **inputs)
            inner = wanted != {self.layer_count}
            output = self.backbone(**inputs, output_hidden_states=inner)
        states = dict(enumerate(output.hidden_states)) if inner else {}
        if inner and len(states) != self.layer_count + 1:
            raise UserError(
                f"layer {min(wanted)}: this decoder has {self.layer_count} layers, but transformers returns "
                f"{len(states)} hidden states; use the last layer, -1"
            )
        return {index: states[index] for index in wanted if index < self.layer_count} | {
            self.layer_count: output.last_hidden_state
        }
