"""The last block when only one token of each text is pooled: its MLP runs at that token alone.

The other tokens still give keys and values. Nothing reads what the block would compute from them after its attention.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dec2vec.decoder.layers import inner_model

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Blocks of x + attention(norm(x)), then x + mlp(norm(x)); each is proved equal in the tests."""
_POSITIONS: ContextVar[tuple[nn.Module, Tensor] | None] = ContextVar("_POSITIONS", default=None)
_PARTS = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}


class PositionedBlock(nn.Module):
    """Base of blocks that call `positions_in` themselves: several threads may run one, each at its own positions."""


def can_skip_tokens(backbone: nn.Module, block: nn.Module) -> bool:
    """Whether the block has the parts that `forward_at` calls, and is not checkpointed, which would run it again."""
    model = inner_model(backbone)
    if model is None or checkpoints(backbone):
        return False
    family = model.config.get_text_config().to_dict()["model_type"]
    return family in FAMILIES and {name for name, _ in block.named_children()} == _PARTS


def checkpoints(backbone: nn.Module) -> bool:
    """Whether some blocks drop their activations and run again in the backward pass."""
    return any(vars(module).get("gradient_checkpointing", False) for module in backbone.modules())


@contextlib.contextmanager
def only_at(block: nn.Module, positions: Int[Tensor, batch]) -> Iterator[None]:
    """Within the context, the block returns (batch, 1, dim): its output at one position of each row."""
    if isinstance(block, PositionedBlock):
        token = _POSITIONS.set((block, positions))
        try:
            yield
        finally:
            _POSITIONS.reset(token)
        return
    block.forward = partial(forward_at, block, positions)
    try:
        yield
    finally:
        del block.forward


def positions_in(block: nn.Module) -> Int[Tensor, batch] | None:
    """The positions at which this thread needs the block's output; None outside of `only_at`."""
    current = _POSITIONS.get()
    return None if current is None or current[0] is not block else current[1]


def forward_at(
    block: Any, positions: Int[Tensor, batch], hidden_states: Float[Tensor, "rows time dim"], **kwargs: Any
) -> Float[Tensor, "batch 1 dim"]:
    """The block's output at one position of each row, computed by its parts.

    Of packed rows, which have batch size 1, it is the output at all `positions`.
    """
    attended, _ = block.self_attn(hidden_states=block.input_layernorm(hidden_states), **kwargs)
    is_packed = len(hidden_states) == 1
    rows = torch.zeros_like(positions) if is_packed else torch.arange(len(positions), device=positions.device)
    kept = (hidden_states[rows, positions] + attended[rows, positions])[:, None]
    output: Tensor = kept + block.mlp(block.post_attention_layernorm(kept))
    return output
