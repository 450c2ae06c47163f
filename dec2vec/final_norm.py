"""The decoder's final norm, which `hidden_states[-1]` has been through and the inner hidden states have not."""

from __future__ import annotations

from torch import nn

from dec2vec.early_exit import decoder_blocks
from dec2vec.errors import UserError

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
