"""The differentiable part of an encoder: padded ids -> pooled states. Training wraps this module in DDP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dec2vec.early_exit import decoder_blocks, inner_states
from dec2vec.final_norm import final_norm
from dec2vec.pooling import View, layers_of, pool


class Embedder(nn.Module):
    """A decoder (or its PEFT wrapper) and the view that is read from it.

    No attention mask and no position ids are passed: rows are padded on the right and attention is causal, so every
    real token sees exactly what it would see alone (positions 0..n-1), and the fast causal kernels apply.
    """

    def __init__(self, backbone: nn.Module, view: View, layer_count: int, *, autocast: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.view = view
        self.layer_count = layer_count
        self.autocast = autocast

    def forward(
        self,
        input_ids: Int[Tensor, "batch time"],
        lengths: Int[Tensor, batch],
        views: Sequence[View] = (),
        starts: Int[Tensor, batch] | None = None,
    ) -> list[Float[Tensor, "batch dim"]]:
        """One float32 tensor a view (the module's own view when none is named), all from one forward pass.

        Pooling reads a row from its start on (None: from its first token).
        """
        asked = list(views) or [self.view]
        with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=self.autocast):
            states = self._hidden_states(input_ids, asked)
            normed = self._normed(states, asked)
        return [pool(normed if view.norm else states, lengths, view, self.layer_count, starts) for view in asked]

    def _normed(self, states: Mapping[int, Tensor], views: Sequence[View]) -> Mapping[int, Tensor]:
        """The states with the final norm applied to the inner ones that views ask it for."""
        inner = set().union(*(layers_of(view, self.layer_count) for view in views if view.norm)) - {self.layer_count}
        if not inner:
            return states
        norm = final_norm(self.backbone, self.layer_count)
        return {**states, **{index: norm(states[index]) for index in inner}}

    def _hidden_states(self, input_ids: Int[Tensor, "batch time"], views: Sequence[View]) -> Mapping[int, Tensor]:
        """The hidden states that the views read; no block above the highest of them runs."""
        wanted = set().union(*(layers_of(view, self.layer_count) for view in views))
        if max(wanted) < self.layer_count and (blocks := decoder_blocks(self.backbone, self.layer_count)) is not None:
            return inner_states(self.backbone, blocks, wanted, input_ids=input_ids, use_cache=False)
        inner = wanted != {self.layer_count}
        output = self.backbone(input_ids=input_ids, use_cache=False, output_hidden_states=inner)
        states = dict(enumerate(output.hidden_states)) if inner else {}
        return states | {self.layer_count: output.last_hidden_state}
