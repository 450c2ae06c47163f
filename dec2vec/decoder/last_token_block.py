"""The last block needed, where only one token of each text is pooled: its MLP runs at that token alone.

The attention of the other tokens still gives keys and values; what comes after it at these tokens is read by nobody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Blocks of x + attention(norm(x)), then x + mlp(norm(x)); each is proved equal in the tests."""
_PLACES: ContextVar[tuple[nn.Module, Tensor] | None] = ContextVar("_PLACES", default=None)
_PARTS = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}


@runtime_checkable
class KnowsPlaces(Protocol):
    """A block that asks `places_in` itself, so that several threads may run it at places of their own."""

    asks_for_places: bool


def can_skip_tokens(backbone: nn.Module, block: nn.Module) -> bool:
    """Whether the block is of the form that `only_at` repeats and runs once (not again, as checkpointed ones do)."""
    model = next((module for module in backbone.modules() if isinstance(module, PreTrainedModel)), None)
    if model is None or checkpoints(backbone):
        return False
    family = model.config.get_text_config().to_dict()["model_type"]
    return family in FAMILIES and {name for name, _ in block.named_children()} == _PARTS


def checkpoints(backbone: nn.Module) -> bool:
    """Whether some blocks drop their activations and run again in the backward pass."""
    return any(vars(module).get("gradient_checkpointing", False) for module in backbone.modules())


@contextlib.contextmanager
def only_at(block: nn.Module, places: Int[Tensor, batch]) -> Iterator[None]:
    """Within, the block returns (batch, 1, dim): its output at one place of each row."""
    if isinstance(block, KnowsPlaces):
        token = _PLACES.set((block, places))
        try:
            yield
        finally:
            _PLACES.reset(token)
        return
    block.forward = partial(forward_at, block, places)
    try:
        yield
    finally:
        del block.forward


def places_in(block: nn.Module) -> Int[Tensor, batch] | None:
    """Where this thread wants the block's output alone; None outside of `only_at`."""
    found = _PLACES.get()
    return None if found is None or found[0] is not block else found[1]


def forward_at(
    block: Any, places: Int[Tensor, batch], hidden_states: Float[Tensor, "rows time dim"], **kwargs: Any
) -> Float[Tensor, "batch 1 dim"]:
    """The block's output at one place of each row, by its own parts; of rows end to end (batch 1) at all `places`."""
    attended, _ = block.self_attn(hidden_states=block.input_layernorm(hidden_states), **kwargs)
    rows = torch.arange(len(places), device=places.device) if len(hidden_states) > 1 else torch.zeros_like(places)
    kept = (hidden_states[rows, places] + attended[rows, places])[:, None]
    output: Tensor = kept + block.mlp(block.post_attention_layernorm(kept))
    return output
