"""Hidden states by hooks at the blocks. The blocks above the highest layer that is needed are not run.

Hidden state i is the input of block i, in every family and on every path; the last one is the output of the last block
after the final norm. `output_hidden_states` of transformers numbers them in the same way in most families. In Mamba and
RWKV it does not return the embeddings, so that its state i is the output of block i.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dec2vec.errors import UserError


class _Reached(Exception):
    """Raised when the highest hidden state that is needed is known, to end the forward pass."""


def decoder_blocks(backbone: nn.Module, layer_count: int) -> nn.ModuleList | None:
    """The blocks of a decoder: the outermost list of `layer_count` modules. None if there is no such list.

    In a vision-language decoder they are those of its language model; its vision tower may have as many.
    """
    lists = (module for module in _of_texts(backbone).modules() if isinstance(module, nn.ModuleList))
    return next((blocks for blocks in lists if len(blocks) == layer_count), None)


def _of_texts(backbone: nn.Module) -> nn.Module:
    """The part that reads tokens: of a vision-language decoder its language model, otherwise all of it."""
    outer = inner_model(backbone)
    if outer is None:
        return backbone
    kind = outer.config.get_text_config().model_type
    models = (module for module in outer.modules() if isinstance(module, PreTrainedModel))
    found: nn.Module = next((model for model in models if model.config.model_type == kind), outer)
    return found


def inner_model(backbone: nn.Module) -> PreTrainedModel | None:
    """The model of transformers in a backbone, which PEFT may have wrapped; None for another module."""
    return next((module for module in backbone.modules() if isinstance(module, PreTrainedModel)), None)


def inner_states(backbone: nn.Module, blocks: nn.ModuleList, wanted: set[int], **inputs: Any) -> dict[int, Tensor]:
    """The hidden states at the indices `wanted`, from 0 to `len(blocks)`, with their graph.

    The pass ends at the highest of them. The last one is what the decoder itself returns.
    """
    states: dict[int, Tensor] = {}
    with _watched(blocks, wanted, states), contextlib.suppress(_Reached):
        states[len(blocks)] = backbone(**inputs).last_hidden_state
    return {index: states[index] for index in wanted}


@torch.no_grad()
def index_in_transformers(backbone: nn.Module, blocks: nn.ModuleList, layer: int) -> int | None:
    """Where `output_hidden_states` has hidden state `layer`; None if it does not return it."""
    inputs = {"input_ids": torch.tensor([[2, 3, 5, 7]], device=next(backbone.parameters()).device), "use_cache": False}
    was_training = backbone.training
    backbone.eval()
    ours = inner_states(backbone, blocks, {layer}, **inputs)[layer]
    theirs = backbone(**inputs, output_hidden_states=True).hidden_states
    backbone.train(was_training)
    equal = [at for at, state in enumerate(theirs) if state.shape == ours.shape and torch.allclose(state, ours)]
    return layer if layer in equal else next(iter(equal), None)


@contextlib.contextmanager
def _watched(blocks: nn.ModuleList, wanted: set[int], states: dict[int, Tensor]) -> Iterator[None]:
    top = max(wanted)
    inner = sorted(index for index in wanted if index < len(blocks))

    def hook(index: int) -> Any:
        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states[index] = _one_per_token(args[0] if args else kwargs["hidden_states"], index)
            if index == top:
                raise _Reached

        # before the block's other hooks: if its weights are sharded, one of them would gather weights that are not used
        return blocks[index].register_forward_pre_hook(keep, with_kwargs=True, prepend=True)

    handles = [hook(index) for index in inner]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _one_per_token(state: Tensor, index: int) -> Tensor:
    """UserError for states of another shape than (text, token, dimension), as Gemma 3n and DeepSeek-V4 have them."""
    if state.ndim != 3:
        raise UserError(
            f"layer {index}: this decoder has several states of a token between its blocks; use the last layer, -1"
        )
    return state


_NAMES = (
    "norm",  # Llama, Mistral, Qwen, Gemma
    "final_layernorm",  # Phi, Jamba
    "final_layer_norm",  # GPT-NeoX, OPT
    "ln_f",  # GPT-2, Falcon, BLOOM
    "norm_f",  # Mamba, MPT
    "final_norm",  # RecurrentGemma
    "ln_out",  # RWKV
    "out_norm",  # xLSTM
    "embedding_norm",  # LFM2
    "layer_norm",  # XGLM, BioGPT
    "layernorm",  # CTRL
)
"""Names of the final norm."""


def final_norm(backbone: nn.Module, layer_count: int) -> nn.Module:
    """The norm after the last block, which is a sibling of the list of blocks.

    UserError for a decoder without one, such as GPT-1 and OPT-350M.
    """
    blocks = decoder_blocks(backbone, layer_count)
    for module in _of_texts(backbone).modules():
        children = dict(module.named_children())
        if blocks is not None and any(child is blocks for child in children.values()):
            norms = [children[name] for name in _NAMES if name in children]
            if norms:
                return norms[0]
    raise UserError("view +norm: this decoder has no final norm; remove +norm")
