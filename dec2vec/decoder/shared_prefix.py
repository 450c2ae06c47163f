"""Compute the tokens that all texts begin with (BOS, an instruction, a prompt) once.

In a causal decoder their states, keys and values do not depend on what follows. The other tokens of each text attend
to them, and the result equals the full computation up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

from dec2vec.decoder.vision import attends_to_all

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "gpt_neox", "opt", "gpt2"})
"""Families with standard rotary or absolute positions that continue from the cache. A test covers each of them."""
WORTHWHILE = 8
"""The least number of tokens; for fewer the masks cost more than is saved."""


class SharedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """Keys and values of one row, (1, head, time, dim), expanded to `batch` rows without a copy."""

    def __init__(self, layer: DynamicLayer, batch: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.row_keys, self.row_values = layer.keys, layer.values
        self.keys = layer.keys.expand(batch, -1, -1, -1)
        self.values = layer.values.expand(batch, -1, -1, -1)


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """The cache of one row, up to the highest block that was run, and the hidden states that are needed."""

    length: int
    cache: DynamicCache
    states: Mapping[int, Float[Tensor, "1 prefix dim"]]

    def expanded(self, batch: int) -> DynamicCache:
        """The cache expanded to `batch` rows without a copy."""
        cache = DynamicCache()
        for layer in self.cache.layers:
            if layer.is_initialized:
                cache.layers.append(SharedLayer(layer, batch))
        return cache

    def before(self, states: Mapping[int, Float[Tensor, "batch time dim"]]) -> dict[int, Tensor]:
        """The states with those of the prefix before them."""
        return {
            index: torch.cat([self.states[index].expand(len(rows), -1, -1), rows], dim=1)
            for index, rows in states.items()
        }


def common_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The ids that all sequences begin with, without the last id of the shortest one."""
    shortest = min(map(len, sequences))
    first, last = min(sequences, key=tuple), max(sequences, key=tuple)  # all other sequences lie between them
    length = next((position for position in range(shortest) if first[position] != last[position]), shortest)
    return list(first[: min(length, shortest - 1)])


def can_share(backbone: nn.Module) -> bool:
    """Whether the decoder is of a family that was tested, causal, and without sliding windows.

    Of those that read images, the text part counts: Llama in LLaVA and SmolVLM. PaliGemma's beginning sees the rest.
    """
    config = backbone.config
    assert isinstance(config, PretrainedConfig)
    text = config.get_text_config().to_dict()
    slides = text.get("sliding_window") is not None and text.get("use_sliding_window", True)
    is_causal = text.get("is_causal", True) and not attends_to_all(backbone)
    return text["model_type"] in FAMILIES and is_causal and not slides
