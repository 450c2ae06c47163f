"""What a run starts from: a decoder, perhaps tuned before or a published embedder, and perhaps an adapter on top of it.

An adapter of dec2vec brings its decoder and its reading (prompt, pooling, layer, length); one of PEFT its decoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.dense_head import HEAD_FILE
from dec2vec.decoder.library_files import MODULES, find_published
from dec2vec.decoder.model_folders import ADAPTER_WEIGHTS, TrainedHead, find
from dec2vec.decoder.published import PublishedModel
from dec2vec.errors import UserError
from dec2vec.files.atomic import sha256_file
from dec2vec.hub import check_path_exists, is_on_hub

SETTINGS = "adapter_config.json"
_OPEN = ("pooling", "layer", "prompt", "max_length", "tokenization")
"""Options of `model` that None leaves open."""
_USUAL = ("task", "text_normalization", "dtype", "depth", "bidirectional")
"""Options that are taken from the adapter where they have their default."""
_PLACES = ("base_model_name_or_path", "revision", "peft_version", "inference_mode")
"""Entries of an adapter's settings that change nothing in what it computes."""


@dataclass(frozen=True)
class Adapter:
    """An adapter with which training goes on."""

    name: str
    """As the user calls it."""
    folder: Path
    settings: Mapping[str, Any]
    """Of PEFT."""
    reading: ModelConfig | None = None
    """How a run of dec2vec reads texts with it."""
    published: PublishedModel | None = None
    """The reading of the published embedder from which that run was tuned."""
    head: TrainedHead | None = None
    """The Dense layers that the run has trained."""

    @property
    def digest(self) -> str:
        """sha256 of what it computes, wherever it and its decoder lie."""
        settings = {name: value for name, value in self.settings.items() if name not in _PLACES}
        weights = sha256_file(self.folder / ADAPTER_WEIGHTS)
        head = "" if self.head is None else f" {sha256_file(self.folder / HEAD_FILE)}"
        return hashlib.sha256(f"{weights} {json.dumps(settings, sort_keys=True)}{head}".encode()).hexdigest()


@dataclass(frozen=True)
class Start:
    """The parts of what a run starts from. `config` reads the decoder at `base`."""

    config: ModelConfig
    base: ModelConfig
    published: PublishedModel | None
    adapter: Adapter | None
    head: TrainedHead | None = None
    """Dense layers that an earlier run has trained."""


def find_start(config: ModelConfig) -> Start:
    """What a run with this `model` section starts from, and how it is read."""
    adapter = find_adapter(config)
    config = config if adapter is None else _read_with(config, adapter)
    artifact, published = find(config), published_base(config)
    if adapter is not None and ((artifact and artifact.adapter) or (published and published.adapter)):
        raise UserError(
            f"model.adapter {adapter.name}: the decoder {config.name_or_path} has an adapter already; name one of them"
        )
    base = config if published is None else published.base(config)
    if adapter is not None and adapter.published is not None:
        published = adapter.published
    head = None if artifact is None else artifact.head
    if adapter is not None and adapter.head is not None:
        head = adapter.head
    return Start(config, base if artifact is None else artifact.base, published, adapter, head)


def published_base(config: ModelConfig) -> PublishedModel | None:
    """The published embedder at `model.name_or_path`, also where a run of ours has been tuned from it before."""
    artifact = find(config)
    return find_published(config) if artifact is None else artifact.published


def with_adapter_reading(config: ModelConfig) -> ModelConfig:
    """The `model` section with what its adapter brings; the same again for a section that has it."""
    adapter = find_adapter(config)
    return config if adapter is None else _read_with(config, adapter)


def find_adapter(config: ModelConfig) -> Adapter | None:
    """The adapter that `model.adapter` names. UserError for anything else than a LoRA adapter."""
    name = config.adapter
    if not name:
        return None
    check_path_exists(name, "model.adapter")
    place = replace(config, name_or_path=name, adapter=None, revision=None)
    artifact = find(place)
    folder = _folder(name) if artifact is None else artifact.adapter
    if folder is None:
        raise UserError(
            f"model.adapter {name}: it holds whole weights and no adapter; train on from it with --model.name_or_path "
            f"{name}"
        )
    settings = _settings(name, folder)
    if artifact is not None:
        return Adapter(name, folder, settings, artifact.config, artifact.published, artifact.head)
    if (folder / MODULES).is_file():
        raise UserError(
            f"model.adapter {name}: it is the adapter of a published embedder, whose tokenizer and pooling lie beside "
            "it; merge it into its decoder and train on from that, or name a folder with the two files of PEFT alone"
        )
    return Adapter(name, folder, settings)


def _folder(name: str) -> Path:
    """The folder of an adapter that dec2vec has not written."""
    path = Path(name)
    if not path.is_dir() and is_on_hub(name, SETTINGS):
        path = Path(snapshot_download(name))
    if not (path / SETTINGS).is_file():
        raise UserError(f"model.adapter {name}: no {SETTINGS}; name a run, or the folder or Hub id of an adapter")
    return path


def _settings(name: str, folder: Path) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        kind = settings["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / SETTINGS}: damaged ({type(error).__name__}); copy it again") from None
    if kind != "LORA":
        raise UserError(f"model.adapter {name}: it is of PEFT's type {kind}, and only LORA can be trained further")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"model.adapter {name}: no {ADAPTER_WEIGHTS}; pickled adapters are not read")
    return settings


def _read_with(config: ModelConfig, adapter: Adapter) -> ModelConfig:
    """The configuration with decoder and reading of the adapter, wherever it says nothing itself."""
    changes: dict[str, Any] = {}
    if adapter.reading is not None:
        usual = ModelConfig()
        changes = {name: getattr(adapter.reading, name) for name in _OPEN if getattr(config, name) is None}
        asked = (name for name in _USUAL if getattr(config, name) == getattr(usual, name))
        changes |= {name: getattr(adapter.reading, name) for name in asked}
    if not config.name_or_path:
        source = adapter.settings if adapter.reading is None else vars(adapter.reading)
        named = source.get("base_model_name_or_path") if adapter.reading is None else source["name_or_path"]
        if not named:
            raise UserError(f"model.adapter {adapter.name}: it names no decoder; give it with --model.name_or_path")
        changes |= {"name_or_path": str(named), "revision": config.revision or source.get("revision")}
    return replace(config, **changes)
