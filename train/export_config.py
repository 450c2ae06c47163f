"""config.json in the spelling that every loader reads.

transformers 5 writes rotary positions as `rope_parameters` only. transformers 4 does not know that key and takes its
class's own base frequency without a word, and Text Embeddings Inference refuses a file without `rope_theta`; so the
older keys are written beside the new one, which transformers 5 accepts. One integer stands for the EOS token, which
some servers cannot read as a list.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dec2vec.encoder import Encoder
from dec2vec.tokenization import eos_id
from train.export_modules import write_json

_PLAIN = ("rope_theta", "partial_rotary_factor")


def spell_for_all(encoder: Encoder, path: Path) -> None:
    """Add the older spelling to a config.json that transformers has written."""
    content = json.loads(path.read_text(encoding="utf-8"))
    changes = older_rotary_keys(content.get("rope_parameters"))
    if encoder.tokenizer.eos_token is not None:
        changes["eos_token_id"] = eos_id(encoder.tokenizer)
    write_json(path, {**content, **changes})


def older_rotary_keys(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """What transformers 4 calls `rope_parameters`; nothing for decoders without, or with one for each kind of layer."""
    if not parameters or "rope_theta" not in parameters:
        return {}
    keys: dict[str, Any] = {name: parameters[name] for name in _PLAIN if name in parameters}
    if parameters.get("rope_type", "default") != "default":
        keys["rope_scaling"] = {name: value for name, value in parameters.items() if name not in keys}
    return keys
