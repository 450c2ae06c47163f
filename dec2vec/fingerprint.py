"""A digest of all that an encoder's vectors depend on. Encoders with equal digests give equal vectors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import torch
from peft import PeftModel

from dec2vec.encoder import Encoder

_ELSEWHERE = ("name_or_path", "revision", "adapter", "trust_remote_code", "max_pixels", "prompt", "pooling", "layer")
"""Options that are left out: where the weights came from (their bytes count), what is refused, and what each call names
itself."""
_NAMES = ("_name_or_path", "base_model_name_or_path", "transformers_version", "inference_mode")
"""Entries of configurations that say where something is, not what it is."""


def fingerprint(encoder: Encoder) -> str:
    """sha256 of the weights, the tokenizer and the options that change a vector, such as dtype or `max_length`."""
    digest = hashlib.sha256()
    options = {key: value for key, value in dataclasses.asdict(encoder.config).items() if key not in _ELSEWHERE}
    digest.update(json.dumps([options, _autocast(encoder)], sort_keys=True).encode())
    digest.update(encoder.tokenizer.backend_tokenizer.to_str().encode("utf-8", "surrogatepass"))
    digest.update(json.dumps(_surroundings(encoder), sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    for name, tensor in encoder.embedder.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _autocast(encoder: Encoder) -> bool | str:
    """Whether there is autocast, in bfloat16 unless another dtype is named."""
    dtype = encoder.embedder.autocast
    return dtype is not None if dtype in (None, torch.bfloat16) else str(dtype)


def _surroundings(encoder: Encoder) -> list[object]:
    """What the weights do not show: special tokens, constants of the architecture, scales of adapters."""
    tokenizer, backbone = encoder.tokenizer, encoder.embedder.backbone
    architecture: Any = backbone.config
    constants = {key: value for key, value in architecture.to_dict().items() if key not in _NAMES}
    adapters: list[object] = []
    if isinstance(backbone, PeftModel):
        adapters = [
            {key: value for key, value in adapter.to_dict().items() if key not in _NAMES}
            for adapter in backbone.peft_config.values()
        ]
    found: list[object] = [tokenizer.bos_token_id, tokenizer.eos_token_id, constants, adapters]
    if encoder.published is not None:
        chat_template = tokenizer.chat_template if encoder.published.chat is not None else None
        found.append([encoder.published.as_json(), chat_template])
    return found
