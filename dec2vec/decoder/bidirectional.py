"""Bidirectional attention, with which LLM2Vec turns a decoder into an encoder (BehnamGhader et al. 2024).

The decoder gets a mask with which the tokens of a text see each other and no token sees a pad. `is_causal` false in
the decoder's configuration marks such a model, and is saved with its weights.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PretrainedConfig

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "gpt_neox", "opt", "gpt2"})
"""For each of them a test compares the result with attention written out."""


LLM2VEC = re.compile(r"(Llama|Mistral|Gemma2?|Qwen2)(Bi|Encoder)(Model|ForMNTP)$")
"""Names of LLM2Vec's own classes: decoders with their causal mask taken away, in files like those of the decoder."""


def turned_by(architecture: PretrainedConfig) -> str | None:
    """What a model that was tuned with bidirectional attention is, by its configuration; None for any other."""
    ours = None if vars(architecture).get("is_causal", True) else "tuned"
    return next((f"LLM2Vec's {name}, tuned" for name in architecture.architectures or () if LLM2VEC.match(name)), ours)


def set_attention(architecture: PretrainedConfig, config: ModelConfig) -> None:
    """Set `is_causal` in the decoder's configuration. UserError if it can't, or was tuned otherwise."""
    decoder: Any = architecture
    if not config.bidirectional:
        turned = turned_by(architecture)
        if turned is not None:
            raise UserError(
                f"model {config.name_or_path} was {turned} with bidirectional attention; add model.bidirectional true"
            )
        return
    if decoder.model_type not in FAMILIES:
        raise UserError(
            f"model.bidirectional is not supported for {decoder.model_type}; remove it, or use a Llama or Qwen model"
        )
    if config.attention == "flash_attention_2":
        raise UserError(
            "model.bidirectional: flash_attention_2 does not support bidirectional masks; use sdpa or eager"
        )
    decoder.is_causal = False


def is_bidirectional(backbone: nn.Module) -> bool:
    """Whether this decoder, or the one that PEFT wraps, attends in both directions."""
    return not vars(_decoder(backbone)).get("is_causal", True)


def full_attention(backbone: nn.Module, lengths: Int[Tensor, batch], time: int) -> dict[str, Tensor]:
    """Arguments for a forward pass over rows of these lengths, padded to `time`. Empty for a causal decoder.

    The mask is (batch, 1, time, time). Positions are given too, because OPT would take them from the mask.
    """
    if not is_bidirectional(backbone):
        return {}
    positions = torch.arange(time, device=lengths.device)
    real = (positions < lengths[:, None])[:, None, None, :].expand(-1, 1, time, -1)
    if _decoder(backbone)._attn_implementation == "eager":  # which adds the mask
        weight = next(parameter for parameter in backbone.parameters() if parameter.is_floating_point())
        real = torch.zeros_like(real, dtype=weight.dtype).masked_fill(~real, torch.finfo(weight.dtype).min)
    return {"attention_mask": real, "position_ids": positions[None]}


def _decoder(backbone: nn.Module) -> Any:
    config = backbone.config
    assert isinstance(config, PretrainedConfig)
    return config.get_text_config()
