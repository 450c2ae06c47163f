"""Shallower decoders: only the first blocks are built and loaded, and only they are saved.

The final norm then reads the output of the last block that is left.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from dec2vec.errors import UserError

_BY_BLOCK = ("layer_types", "mlp_layer_types", "attention_layers", "no_rope_layers")
"""Lists with an entry for each block, where a family has them."""


def cut(architecture: PretrainedConfig, depth: int, name: str) -> None:
    """Leave the first `depth` blocks in the decoder's own configuration; UserError where it has fewer."""
    decoder: Any = architecture
    count = int(decoder.num_hidden_layers)
    if depth > count:
        raise UserError(f"model.depth {depth}: {name} has {count} blocks; use that many or fewer")
    for entry in _BY_BLOCK:
        if isinstance(kinds := vars(decoder).get(entry), list):
            setattr(decoder, entry, kinds[:depth])
    decoder.num_hidden_layers = depth
