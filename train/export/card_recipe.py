"""The section "Recipe" of a model card: the resolved options that determine the result, and nothing that was unused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import yaml

from train.config import TrainConfig
from train.export.card_data import DataFact
from train.export.card_losses import loss_options
from train.losses.per_source import used_losses
from train.options.data import SourceConfig

_READING = ("dtype", "pooling", "layer", "prompt", "task", "tokenization", "text_normalization", "max_length")
_SPEED = ("fused", "gradient_checkpointing")
"""Of `lora`: options that don't change the result."""


def recipe_section(config: TrainConfig, facts: Sequence[DataFact], origin: str) -> str:
    """`origin` says which runs a merged model was made of."""
    shown = yaml.safe_dump(_options(config, facts), sort_keys=False, allow_unicode=True, width=110)
    batch = _batch(config)
    parts = ["## Recipe", *([origin] if origin else []), f"```yaml\n{shown}```", *([batch] if batch else [])]
    return "\n\n".join(parts)


def _options(config: TrainConfig, facts: Sequence[DataFact]) -> dict[str, object]:
    options = dataclasses.asdict(config)
    model = {key: options["model"][key] for key in _READING}
    model |= {key: options["model"][key] for key in ("depth", "bidirectional", "load_in_4bit") if options["model"][key]}
    own_losses = bool(config.data) and all(source.losses for source in config.data)
    return {
        "model": model,
        "lora": _tuned_weights(options["lora"]),
        **({"data": list(map(_source, config.data, facts))} if config.data else {}),
        **({} if own_losses else {"loss": loss_options(config.loss)}),
        **({"mining": options["mining"]} if config.mining.every is not None else {}),
        "optim": options["optim"],
        "batch": {key: options["batch"][key] for key in ("size", "sources", "no_duplicates")},
        "seed": config.seed,
    }


def _source(source: SourceConfig, fact: DataFact) -> dict[str, object]:
    """One entry of `data`: a source without losses of its own has the run's."""
    texts_per_label = {"texts_per_label": source.texts_per_label} if source.kind == "labelled" else {}
    options: dict[str, object] = {
        "query_prompt": source.query_prompt,
        "document_prompt": source.document_prompt,
        "only": list(source.only),
        "limit": source.limit,
        "weight": source.weight,
        "clean": source.clean,
    }
    given = {key: value for key, value in options.items() if value not in (None, [], False)}
    losses = {"losses": list(map(loss_options, source.losses))} if source.losses else {}
    return {"path": fact.name, "kind": source.kind, **texts_per_label, **given, **losses}


def _tuned_weights(lora: dict[str, Any]) -> dict[str, Any]:
    """The `lora` section as plain YAML, or only the method for full tuning."""
    if lora["method"] == "full":
        return {"method": "full"}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in lora.items() if key not in _SPEED}


def _batch(config: TrainConfig) -> str:
    """In-batch negatives come from all processes, whatever their number."""
    if all(loss.kind != "infonce" for loss in used_losses(config)):
        return ""
    return f"In-batch negatives are those of the whole batch of {config.batch.size:,} rows, over all processes."
