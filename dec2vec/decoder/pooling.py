"""Pool the states of tokens into one vector. All functions are pure and take batches that are padded on the right.

Padding comes after every real token, so a pooled value never depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dec2vec.config.model import LOGIT_POOLINGS, PoolingName
from dec2vec.errors import UserError

States = Float[Tensor, "batch time dim"]
Lengths = Int[Tensor, "batch"]
Pooled = Float[Tensor, "batch dim"]
OfLayers = Mapping[int, Float[Tensor, "batch time _dim"]]
"""States by layer. In a few families those between blocks are wider than the last."""


@dataclass(frozen=True)
class View:
    """A pooling of a layer, written pooling@layer: how the token states of that layer become a vector."""

    pooling: PoolingName
    layer: int | float
    norm: bool = False
    """Apply the decoder's final norm to inner hidden states. The last hidden state is already normalized."""
    dense: bool = False
    """Apply the Dense layers of a published embedder, or those that a run has trained, to the pooled vector."""

    def __str__(self) -> str:
        return f"{self.pooling}@{self.layer}{'+norm' * self.norm}{'+dense' * self.dense}"


def belongs_to(own: View, view: View, layer_count: int) -> bool:
    """Whether the Dense layers that `own` uses belong to the pooling and layer of `view` too."""
    layers = {resolve_layer(each.layer, layer_count) for each in (own, view)}
    return own.dense and own.pooling == view.pooling and len(layers) == 1


def real_tokens(lengths: Lengths, time: int) -> Bool[Tensor, "batch time"]:
    """True at the positions of real tokens."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def pooled_tokens(lengths: Lengths, starts: Lengths | None, time: int) -> Bool[Tensor, "batch time"]:
    """True at the positions of real tokens from the start of the row on."""
    real = real_tokens(lengths, time)
    if starts is None:
        return real
    return real & (torch.arange(time, device=lengths.device) >= starts[:, None])


def last(states: States, lengths: Lengths, starts: Lengths | None = None) -> Pooled:
    """The state of the last real token: EOS, or the end of an EOL prompt."""
    return states[torch.arange(len(lengths), device=lengths.device), lengths - 1]


def mean(states: States, lengths: Lengths, starts: Lengths | None = None) -> Pooled:
    """The mean of the states of real tokens."""
    mask = pooled_tokens(lengths, starts, states.shape[1])[..., None].to(states.dtype)
    counts = lengths if starts is None else lengths - starts
    return (states * mask).sum(1) / counts[:, None].to(states.dtype)


def weighted_mean(states: States, lengths: Lengths, starts: Lengths | None = None) -> Pooled:
    """The mean weighted by positions 1 to n (SGPT, Muennighoff 2022), because later tokens have seen more."""
    positions = torch.arange(1, states.shape[1] + 1, device=states.device)
    counted = positions if starts is None else positions - starts[:, None]
    weights = (counted * pooled_tokens(lengths, starts, states.shape[1])).to(states.dtype)
    return (states * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


def maximum(states: States, lengths: Lengths, starts: Lengths | None = None) -> Pooled:
    """The largest value of each dimension over the real tokens."""
    mask = pooled_tokens(lengths, starts, states.shape[1])[..., None]
    return states.masked_fill(~mask, -torch.inf).amax(1)


_SINGLE_LAYER: dict[PoolingName, Callable[[States, Lengths, Lengths | None], Pooled]] = {
    "last": last,
    "mean": mean,
    "weighted_mean": weighted_mean,
    "max": maximum,
}


def resolve_layer(layer: int | float, layer_count: int) -> int:
    """The index of a hidden state, from 0 to `layer_count`, for a signed index or a fraction of the depth (float)."""
    if isinstance(layer, float):
        if not 0.0 <= layer <= 1.0:
            raise UserError(f"layer {layer}: a fraction of the depth must be between 0.0 and 1.0")
        return round(layer * layer_count)
    if not -layer_count - 1 <= layer <= layer_count:
        raise UserError(f"layer {layer}: the model has hidden states 0 to {layer_count} (or -1 to {-layer_count - 1})")
    return layer % (layer_count + 1)


_FIRST: dict[PoolingName, int] = {"first_last": 1, "first_last_static": 0}
"""Poolings that average two layers, and the lower of them."""


def layers_of(view: View, layer_count: int) -> set[int]:
    """The indices of the hidden states that a view needs. UserError if its norm or LM head does not fit the layer."""
    chosen = resolve_layer(view.layer, layer_count)
    if view.pooling in LOGIT_POOLINGS and chosen < layer_count and not view.norm:
        raise UserError(f"view {view}: the LM head needs states after the final norm; use layer -1, or add +norm")
    layers = {chosen, _FIRST.get(view.pooling, chosen)}
    if view.norm and layers == {layer_count}:
        raise UserError(f"view {view}: the final norm has already been applied to the last layer; remove +norm")
    return layers


def pool(
    hidden_states: OfLayers, lengths: Lengths, view: View, layer_count: int, starts: Lengths | None = None
) -> Pooled:
    """The vectors of one view. `hidden_states[0]` are input embeddings; `[layer_count]` comes after the final norm.

    `first_last` averages the means of `hidden_states[1]` (the first block's output, as in the BERT-whitening paper)
    and of the view's layer. `first_last_static` takes `hidden_states[0]` instead, as early SimCSE code did. Tokens
    before the start of a row are not pooled; without `starts` all tokens are.
    """
    index = resolve_layer(view.layer, layer_count)
    chosen = hidden_states[index].float()
    if view.pooling not in _FIRST:
        return _SINGLE_LAYER[view.pooling](chosen, lengths, starts)
    low = _FIRST[view.pooling]
    first = hidden_states[low].float()
    if first.shape != chosen.shape:
        raise UserError(
            f"pooling {view.pooling}: layers {low} and {index} differ in width; use another pooling or layer"
        )
    return (mean(first, lengths, starts) + mean(chosen, lengths, starts)) / 2
