"""Whether a run's chunks go through the decoder without padding (`dec2vec.unpadded`), and why not."""

from __future__ import annotations

import logging
from typing import Any

import torch

from dec2vec.embedder import Embedder
from dec2vec.pooled_rows import FAMILIES, checkpoints
from dec2vec.shared_prefix import can_share
from dec2vec.unpadded import find_kernel
from train.engine_sharded import is_sharded

_log = logging.getLogger(__name__)
LARGEST_HEAD = 256
"""Components of a head that the kernel takes, in steps of 8."""


def leave_out_padding(embedder: Embedder) -> None:
    """From now on, where it can be done; else a line says why not."""
    reason = why_padded(embedder)
    embedder.unpadded = reason is None
    if reason is not None:
        _log.info("texts stay padded: %s", reason)


def why_padded(embedder: Embedder) -> str | None:
    """What keeps this run's texts in padded rows; None when nothing does."""
    device = next(embedder.parameters()).device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return "attention without padding needs a CUDA device of compute capability 8.0 or more"
    if find_kernel() is None:
        return "this torch has no varlen_attn with a scale and a window (2.11 has)"
    return _why_not_here(embedder)


def _why_not_here(embedder: Embedder) -> str | None:
    backbone: Any = embedder.backbone
    text = backbone.config.get_text_config()
    weight = backbone.get_input_embeddings().weight
    if not embedder.autocast and weight.dtype not in (torch.bfloat16, torch.float16):
        return "the kernel takes 16 bits (--model.autocast on, or --model.dtype bfloat16)"
    if text.model_type not in FAMILIES or not can_share(backbone):
        return "it isn't proved equal for this decoder family, sliding windows or attention in both directions"
    if text._attn_implementation != "sdpa" or text.to_dict().get("attention_dropout"):
        return "the decoder's attention is not sdpa without dropout"
    size = text.to_dict().get("head_dim") or text.hidden_size // text.num_attention_heads
    if size % 8 or size > LARGEST_HEAD:
        return f"heads of {size} components; the kernel takes multiples of 8 up to {LARGEST_HEAD}"
    if checkpoints(backbone):
        return "checkpointed blocks run again after the pass"
    if is_sharded(embedder):
        return "the weights are sharded, for which it isn't proved equal"
    return None
