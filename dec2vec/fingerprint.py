"""What an encoder's vectors depend on, as one digest: equal digests give equal vectors, wherever they were loaded."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json

import torch

from dec2vec.encoder import Encoder

_ELSEWHERE = ("name_or_path", "revision", "trust_remote_code", "prompt", "pooling", "layer")
"""Options that don't count: where the weights came from (their bytes count), and what is named at each call."""


def fingerprint(encoder: Encoder) -> str:
    """sha256 of weights, tokenizer and the options that change a vector, such as dtype or `max_length`."""
    digest = hashlib.sha256()
    options = {key: value for key, value in dataclasses.asdict(encoder.config).items() if key not in _ELSEWHERE}
    digest.update(json.dumps([options, encoder.embedder.autocast], sort_keys=True).encode())
    digest.update(encoder.tokenizer.backend_tokenizer.to_str().encode("utf-8", "surrogatepass"))
    digest.update(_chat_template(encoder))
    for name, tensor in encoder.embedder.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _chat_template(encoder: Encoder) -> bytes:
    """With the day, where the template writes it."""
    template = str(encoder.tokenizer.chat_template or "")
    day = datetime.date.today().isoformat() if "strftime_now" in template else ""
    return f"{template} {day}".encode("utf-8", "surrogatepass")
