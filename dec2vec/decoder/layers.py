"""Inner layers without the cost of those above: the forward pass ends where the last wanted state is known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from dec2vec.errors import UserError


class _Reached(Exception):
    """The input of the last wanted block is there; nothing above it needs to run."""


def decoder_blocks(backbone: nn.Module, layer_count: int) -> nn.ModuleList | None:
    """The decoder's blocks, in any family and under PEFT: the outermost list of `layer_count` modules, if there is one.

    Block i reads what `output_hidden_states` calls hidden state i.
    """
    lists = (module for module in backbone.modules() if isinstance(module, nn.ModuleList))
    return next((blocks for blocks in lists if len(blocks) == layer_count), None)


def inner_model(backbone: nn.Module) -> PreTrainedModel | None:
    """The model of transformers in a backbone, which PEFT may have wrapped; None for another module."""
    return next((module for module in backbone.modules() if isinstance(module, PreTrainedModel)), None)


def inner_states(backbone: nn.Module, blocks: nn.ModuleList, wanted: set[int], **inputs: Any) -> dict[int, Tensor]:
    """Hidden states at the indices `wanted`, each below `len(blocks)`, with their graph.

    Equal to `output_hidden_states`, which runs every block.
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

        # ahead of a block's other hooks: where its weights are sharded, one of them gathers what would not be used
        return blocks[index].register_forward_pre_hook(keep, with_kwargs=True, prepend=True)

    handles = [hook(index) for index in sorted(wanted)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


_NAMES = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f", "final_norm")
"""What Llama, Mistral, Qwen and Gemma; Phi; GPT-NeoX and OPT; GPT-2, Falcon and BLOOM; Mamba and others call it."""


def final_norm(backbone: nn.Module, layer_count: int) -> nn.Module:
    """The norm that stands beside the list of blocks, in any family and under PEFT.

    UserError where there is none, as in GPT-1 and OPT-350M.
    """
    blocks = decoder_blocks(backbone, layer_count)
    for module in backbone.modules():
        children = dict(module.named_children())
        if blocks is not None and any(child is blocks for child in children.values()):
            found = [children[name] for name in _NAMES if name in children]
            if found:
                return found[0]
    raise UserError("view +norm: this decoder has no final norm to apply to inner layers; leave +norm out")
