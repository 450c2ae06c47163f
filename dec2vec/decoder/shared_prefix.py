"""The tokens that all texts begin with (a prompt, an instruction, BOS) run through the decoder once.

In a causal decoder their states and their keys and values are the same whatever follows; the texts' own tokens then
attend to them. Equal to the whole computation up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "gpt_neox", "opt", "gpt2"})
"""Standard rotary or absolute positions, counted on from the cache; each is proved equal in the tests."""
WORTHWHILE = 8
"""Shorter prefixes cost more in masks than they save."""


class SharedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """One row's keys and values, (1, head, time, dim), read by `batch` rows: nothing is copied."""

    def __init__(self, layer: DynamicLayer, batch: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.row_keys, self.row_values = layer.keys, layer.values
        self.keys = layer.keys.expand(batch, -1, -1, -1)
        self.values = layer.values.expand(batch, -1, -1, -1)


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """One row's cache up to the highest block that ran, and the hidden states that were asked for."""

    length: int
    cache: DynamicCache
    states: Mapping[int, Float[Tensor, "1 prefix dim"]]

    def expanded(self, batch: int) -> DynamicCache:
        """A cache for `batch` rows that reads the one row's keys and values: nothing is copied."""
        cache = DynamicCache()
        for layer in self.cache.layers:
            if layer.is_initialized:
                cache.layers.append(SharedLayer(layer, batch))
        return cache

    def before(self, states: Mapping[int, Float[Tensor, "batch time dim"]]) -> dict[int, Tensor]:
        """The states of whole rows, prefix first."""
        return {
            index: torch.cat([self.states[index].expand(len(own), -1, -1), own], dim=1) for index, own in states.items()
        }


def common_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The ids that all sequences begin with, leaving each at least one of its own."""
    shortest = min(map(len, sequences))
    first, last = min(sequences, key=tuple), max(sequences, key=tuple)  # all others lie between
    length = next((place for place in range(shortest) if first[place] != last[place]), shortest)
    return list(first[: min(length, shortest - 1)])


def can_share(backbone: nn.Module) -> bool:
    """Whether the decoder is of a family for which sharing is proved, causal and without sliding windows."""
    config = backbone.config
    assert isinstance(config, PretrainedConfig)
    text = config.get_text_config().to_dict()
    slides = text.get("sliding_window") is not None and text.get("use_sliding_window", True)
    return text["model_type"] in FAMILIES and text.get("is_causal", True) and not slides
