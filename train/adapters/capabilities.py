"""What the decoder and its dropout allow in training: a shared prompt, and texts without padding."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from dec2vec.decoder.devices import has_flash_attention
from dec2vec.decoder.last_token_block import FAMILIES, checkpoints
from dec2vec.decoder.layers import inner_model
from dec2vec.decoder.shared_prefix import can_share
from dec2vec.decoder.varlen import find_kernel
from train.distributed.interface import Engine

_log = logging.getLogger(__name__)
LARGEST_HEAD = 256
"""The most components of a head that the kernel takes; it takes multiples of 8."""


def leave_out_padding(model: Engine) -> None:
    """From now on run texts without padding, if that is possible; otherwise log why it isn't."""
    reason = why_padded(model)
    model.embedder.unpadded = reason is None
    if reason is not None:
        _log.info("texts stay padded: %s", reason)


def why_padded(model: Engine) -> str | None:
    """Why texts must be padded in this run; None if they need not be."""
    device = next(model.embedder.parameters()).device
    if not has_flash_attention(device):
        return "attention without padding needs a CUDA device with compute capability 8.0 or higher"
    if find_kernel() is None:
        return "this torch has no varlen_attn with a scale and a window (2.11 has)"
    return _why_not_for_this_model(model)


def _why_not_for_this_model(model: Engine) -> str | None:
    backbone: Any = model.embedder.backbone
    text = backbone.config.get_text_config()
    weight = backbone.get_input_embeddings().weight
    if model.embedder.autocast is None and weight.dtype not in (torch.bfloat16, torch.float16):
        return "the kernel needs 16-bit values (model.autocast on, or model.dtype bfloat16)"
    if text.model_type not in FAMILIES or not can_share(backbone):
        return "it is not tested for this decoder family, sliding windows or bidirectional attention"
    if text._attn_implementation != "sdpa" or text.to_dict().get("attention_dropout"):
        return "it needs sdpa attention without dropout"
    size = text.to_dict().get("head_dim") or text.hidden_size // text.num_attention_heads
    if size % 8 or size > LARGEST_HEAD:
        return f"the attention heads have {size} components, but the kernel needs a multiple of 8 up to {LARGEST_HEAD}"
    if checkpoints(backbone):
        return "checkpointed blocks are run again after the pass"
    if not model.holds_whole_weights:
        return "it is not tested with sharded weights"
    return None


def why_not_shared(model: Engine) -> str | None:
    """Why this run can't share a prompt between the texts of a training step; None if it can."""
    embedder = model.embedder
    if max(embedder.wanted_layers([embedder.view])) == 0:
        return "the input embeddings are pooled"
    if not can_share(embedder.backbone):
        return "sharing is not tested for this decoder family"
    if model.why_prefix_not_shared is not None:
        return model.why_prefix_not_shared
    if drops(embedder.backbone):
        return "dropout draws a separate mask for each text"
    if checkpoints(embedder.backbone):
        return "checkpointed blocks do not keep keys and values"
    return None


_RATES = ("dropout", "attention_dropout", "attn_pdrop", "activation_dropout", "layerdrop", "hidden_dropout")
"""Options of decoders that drop by functions, which no module shows."""


def drops(backbone: nn.Module) -> bool:
    """Whether a forward pass draws random numbers in training."""
    model = inner_model(backbone)
    assert model is not None
    config = model.config.get_text_config().to_dict()
    in_config = any(isinstance(config.get(name), float) and config[name] > 0 for name in _RATES)
    return in_config or any(isinstance(module, nn.Dropout) and module.p > 0 for module in backbone.modules())
