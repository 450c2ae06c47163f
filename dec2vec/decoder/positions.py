"""How many tokens of a text are read: the option, the default, and the positions that a decoder has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PretrainedConfig

from dec2vec.config.model import DEFAULT_LENGTH, ModelConfig
from dec2vec.decoder.library_files import find_published
from dec2vec.decoder.load import load_architecture
from dec2vec.decoder.model_folders import find
from dec2vec.errors import UserError

_LONG_ROPES = ("longrope", "su")
"""Names of these positions now, and in the first Phi-3."""


def position_limit(decoder: PretrainedConfig) -> int | None:
    """The number of learned positions, beyond which GPT-2 and OPT fail inside a kernel; None if nothing limits it."""
    name = decoder.attribute_map.get("max_position_embeddings", "max_position_embeddings")  # n_positions in GPT-2
    limit = decoder.to_dict().get(name)
    return limit if isinstance(limit, int) else None


def length_borders(decoder: PretrainedConfig) -> list[int]:
    """The numbers of tokens above which positions change (longrope of Phi-3: short factors, then long ones).

    transformers chooses the factors by the longest row of a pass. For a vector to depend on its own text alone, all
    texts of a pass must therefore lie on the same side of each border.
    """
    options = decoder.to_dict()
    ropes: dict[str, Any] = options.get("rope_parameters") or options.get("rope_scaling") or {}
    kinds = [ropes, *(rope for rope in ropes.values() if isinstance(rope, dict))]  # one, or one for each kind of layer
    whole = options.get("original_max_position_embeddings")
    return sorted(
        {
            int(border)
            for rope in kinds
            if rope.get("rope_type", rope.get("type")) in _LONG_ROPES
            and (border := rope.get("original_max_position_embeddings", whole)) is not None
        }
    )


def with_max_length(config: ModelConfig, decoder: PretrainedConfig, default: int | None = None) -> ModelConfig:
    """The configuration with a number as `max_length`. UserError if the decoder has fewer positions than it says.

    `default` is that of a published embedder.
    """
    limit, wanted = position_limit(decoder), default or DEFAULT_LENGTH
    if config.max_length is None:
        return replace(config, max_length=wanted if limit is None else min(wanted, limit))
    if limit is not None and config.max_length > limit:
        raise UserError(
            f"model.max_length {config.max_length}: the model has {limit} positions; set it to {limit} or less"
        )
    return config


def known_max_length(config: ModelConfig) -> int | None:
    """`max_length`, or its default for this decoder before it is loaded. None if its configuration can't be read."""
    if config.max_length is not None:
        return config.max_length
    try:
        artifact, published = find(config), find_published(config)
        base = config if artifact is None else replace(config, name_or_path=artifact.base.name_or_path)
        base = base if published is None else published.base(base)
        default = None if published is None else published.reading.max_length
        return with_max_length(config, load_architecture(base).get_text_config(), default).max_length
    except UserError:  # reported where the model is loaded
        return None
