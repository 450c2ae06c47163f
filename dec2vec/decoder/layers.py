"""Hidden states of inner layers. The blocks above the highest layer that is needed are not run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from dec2vec.errors import UserError


class _Reached(Exception):
    """Raised when the highest hidden state that is needed is known, to end the forward pass."""


def decoder_blocks(backbone: nn.Module, layer_count: int) -> nn.ModuleList | None:
    """The blocks of a decoder: the outermost list of `layer_count` modules. None if there is no such list.

    The input of block i is what `output_hidden_states` calls hidden state i.
    """
    lists = (module for module in backbone.modules() if isinstance(module, nn.ModuleList))
    return next((blocks for blocks in lists if len(blocks) == layer_count), None)


def inner_model(backbone: nn.Module) -> PreTrainedModel | None:
    """The model of transformers in a backbone, which PEFT may have wrapped; None for another module."""
    return next((module for module in backbone.modules() if isinstance(module, PreTrainedModel)), None)


def inner_states(backbone: nn.Module, blocks: nn.ModuleList, wanted: set[int], **inputs: Any) -> dict[int, Tensor]:
    """The hidden states at the indices `wanted`, each below `len(blocks)`, with their graph.

    They equal those of `output_hidden_states`, which runs every block.
    """
    states: dict[int, Tensor] = {}
    with _watched(blocks, wanted, states), contextlib.suppress(_Reached):
        backbone(**inputs)
    return states


@contextlib.contextmanager
def _watched(blocks: nn.ModuleList, wanted: set[int], states: dict[int, Tensor]) -> Iterator[None]:
    top = max(wanted)

    def hook(index: int) -> Any:
        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states[index] = args[0] if args else kwargs["hidden_states"]
            if index == top:
                raise _Reached

        # before the block's other hooks: if its weights are sharded, one of them would gather weights that are not used
        return blocks[index].register_forward_pre_hook(keep, with_kwargs=True, prepend=True)

    handles = [hook(index) for index in sorted(wanted)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_NAMES = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "final_norm")
"""Names of the final norm in Llama, Mistral, Qwen and Gemma; Phi; GPT-NeoX and OPT; GPT-2, Falcon and BLOOM; Mamba."""


def final_norm(backbone: nn.Module, layer_count: int) -> nn.Module:
    """The norm after the last block, which is a sibling of the list of blocks.

    UserError for a decoder without one, such as GPT-1 and OPT-350M.
    """
    blocks = decoder_blocks(backbone, layer_count)
    for module in backbone.modules():
        children = dict(module.named_children())
        if blocks is not None and any(child is blocks for child in children.values()):
            norms = [children[name] for name in _NAMES if name in children]
            if norms:
                return norms[0]
    raise UserError("view +norm: this decoder has no final norm; remove +norm")
