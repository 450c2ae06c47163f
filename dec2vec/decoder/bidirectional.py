"""Attention in both directions, as LLM2Vec turns a decoder into an encoder (BehnamGhader et al. 2024).

A mask of whole texts is handed to the decoder, which passes it on as it is; the real tokens of a text see each other,
and nobody sees a pad. `is_causal` false in the decoder's own configuration says so, and is saved with its weights.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PretrainedConfig

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "gpt_neox", "opt", "gpt2"})
"""Each is proved equal to attention written out in the tests."""


def set_attention(architecture: PretrainedConfig, config: ModelConfig) -> None:
    """Write the direction into the decoder's own configuration; UserError where it can't be had or is the other."""
    decoder: Any = architecture
    if not config.bidirectional:
        if not vars(decoder).get("is_causal", True):
            raise UserError(
                f"model {config.name_or_path}: was tuned with attention in both directions; add "
                "--model.bidirectional true"
            )
        return
    if decoder.model_type not in FAMILIES:
        raise UserError(f"model.bidirectional: not for {decoder.model_type}; leave it out, or name a Llama or Qwen")
    if config.attention == "flash_attention_2":
        raise UserError("model.bidirectional: flash_attention_2 takes no mask of whole texts; use sdpa or eager")
    decoder.is_causal = False


def is_bidirectional(backbone: nn.Module) -> bool:
    """Whether `set_attention` has turned this decoder (or the one that PEFT wraps)."""
    return not vars(_decoder(backbone)).get("is_causal", True)


def full_attention(backbone: nn.Module, lengths: Int[Tensor, batch], time: int) -> dict[str, Tensor]:
    """What to add to a forward pass over rows of these lengths, padded to `time`: nothing for a causal decoder.

    The mask is (batch, 1, time, time). Positions are given too: OPT would take them from the mask.
    """
    if not is_bidirectional(backbone):
        return {}
    places = torch.arange(time, device=lengths.device)
    real = (places < lengths[:, None])[:, None, None, :].expand(-1, 1, time, -1)
    if _decoder(backbone)._attn_implementation == "eager":  # which adds the mask
        weight = next(parameter for parameter in backbone.parameters() if parameter.is_floating_point())
        real = torch.zeros_like(real, dtype=weight.dtype).masked_fill(~real, torch.finfo(weight.dtype).min)
    return {"attention_mask": real, "position_ids": places[None]}


def _decoder(backbone: nn.Module) -> Any:
    config = backbone.config
    assert isinstance(config, PretrainedConfig)
    return config.get_text_config()
