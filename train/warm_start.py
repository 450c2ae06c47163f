"""What a run takes from a published embedder that is its base, or from an adapter with which it goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.model_folders import find
from dec2vec.decoder.start import Adapter, find_adapter, find_start, published_base, with_adapter_reading
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import PUBLISHED, Prompt
from train.config import LoraConfig, TrainConfig

_log = logging.getLogger(__name__)


def with_adapter(config: TrainConfig) -> TrainConfig:
    """The configuration with what `model.adapter` decides: decoder and reading, rank and targets.

    UserError for an option of `lora` that contradicts the adapter. Without one, or a second time, nothing changes.
    """
    adapter = find_adapter(config.model)
    if adapter is None:
        return config
    return replace(config, model=with_adapter_reading(config.model), lora=_options_of(adapter, config.lora))


def _options_of(adapter: Adapter, lora: LoraConfig) -> LoraConfig:
    if lora.method == "full":
        raise UserError(
            f"lora.method full: model.adapter {adapter.name} is trained as an adapter; remove one of the two, or merge "
            "it (dec2vec export RUN --to DIR --merge) and name DIR with model.name_or_path"
        )
    usual, given = LoraConfig(), _shape(adapter.settings)
    for option in ("layers", "init", *given):
        asked, theirs = getattr(lora, option), given.get(option, getattr(usual, option))
        if asked != getattr(usual, option) and _set_of(asked) != _set_of(theirs):
            has = f"has {theirs}" if option in given else "exists already"
            raise UserError(f"lora.{option} {asked}: model.adapter {adapter.name} {has}; remove the option")
    return replace(lora, **given)


def _shape(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `lora` as the settings of an adapter have them."""
    targets = settings.get("target_modules")
    return {
        "rank": int(settings["r"]),
        "alpha": float(settings["lora_alpha"]),
        "targets": tuple(sorted(targets)) if isinstance(targets, list) else targets or "all-linear",
        "modules_to_save": tuple(settings.get("modules_to_save") or ()),
        "rslora": bool(settings.get("use_rslora")),
        "dora": bool(settings.get("use_dora")),
    }


def _set_of(value: object) -> object:
    """Names in any order; one name is a list of one."""
    names = (value,) if isinstance(value, str) else value
    return frozenset(names) if isinstance(names, tuple) else value


def adapter_folder(config: ModelConfig) -> Path | None:
    """The folder of the adapter with which training goes on."""
    adapter = find_adapter(config)
    return None if adapter is None else adapter.folder


def note_adapter(config: TrainConfig) -> None:
    """Say in a line from what training goes on."""
    adapter, model, lora = find_adapter(config.model), config.model, config.lora
    if adapter is None:
        return
    _log.info(
        "training goes on from the adapter %s: rank %d, alpha %g, on %s; prompt %s, pooling %s of layer %s, max_length "
        "%s; a new optimizer and schedule",
        adapter.name,
        lora.rank,
        lora.alpha,
        model.name_or_path,
        model.prompt_name,
        model.pooling_name,
        model.pooled_layer,
        model.max_length,
    )
    if adapter.reading is not None and adapter.reading.load_in_4bit != model.load_in_4bit:
        before, now = (" in 4 bits" if bits else "" for bits in (adapter.reading.load_in_4bit, model.load_in_4bit))
        _log.warning(
            "the adapter was trained over base weights%s and goes on over them%s", before or " unquantized", now
        )


def note_what_is_taken(encoder: Encoder) -> None:
    """Say in a line how a run reads texts because its base is a published embedder, or has Dense layers of its own."""
    if find_start(encoder.config).head is not None:
        what = "kept as they are" if encoder.embedder.view.dense else "left out, because pooling or layer differ"
        name = encoder.config.adapter or encoder.config.name_or_path
        _log.info("%s: the Dense layers that its run has trained are %s", name, what)
    if encoder.published is None:
        return
    _log.info("%s is a published embedder: %s", encoder.config.name_or_path, "; ".join(_taken(encoder)))


def _taken(encoder: Encoder) -> Iterator[str]:
    config, reading = encoder.config, encoder.published
    assert reading is not None
    own = {name: words for name, words in reading.prompts.items() if words}
    prompts = f"prompts {own or 'none'}" if config.prompt == PUBLISHED else f"prompt {config.prompt} instead of {own}"
    yield prompts
    ending = encoder.tokenizer.convert_ids_to_tokens(encoder.ending)
    yield f"texts end in {' '.join(ending)}" if ending else "nothing is appended to texts"
    was = "" if config.pooling == reading.pooling else f" instead of {reading.pooling}"
    yield f"pooling {config.pooling}{was} of layer {config.pooled_layer}"
    dense = [step for step in reading.steps if step.kind == "dense"]
    if dense:
        what = "kept as they are" if encoder.embedder.view.dense else "left out, because pooling or layer differ"
        yield f"{len(dense)} Dense layers, {what}"
    yield f"max_length {config.max_length}"


def check_pooled_prompt(encoder: Encoder, prompt: Prompt) -> None:
    """Refuse a prompt whose tokens are not pooled: training pools every token."""
    if prompt.pooled_from and encoder.config.pooling != "last":
        raise UserError(
            f"model.name_or_path {encoder.config.name_or_path}: its Pooling leaves out the prompt (include_prompt "
            "false), which training does not; use model.pooling last or model.prompt bare"
        )


def check_no_adapter(config: ModelConfig) -> None:
    """Refuse a base that has an adapter, on which another one would be put."""
    artifact, published = find(config), published_base(config)
    folder: Path | None = None if artifact is None else artifact.adapter
    if folder is None and published is not None:
        folder = published.adapter
    if folder is not None:
        raise UserError(
            f"model.name_or_path {config.name_or_path}: has an adapter already; to train it further, name it with "
            "model.adapter, or merge it with dec2vec export RUN --to DIR --merge, and name DIR"
        )
