"""What a run starts from: a decoder, perhaps tuned before or a published embedder, and perhaps an adapter on top of it.

An adapter of dec2vec brings its decoder and its reading (prompt, pooling, layer, length); one of PEFT its decoder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RevisionNotFoundError

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.dense_head import HEAD_FILE
from dec2vec.decoder.library_files import MODULES, find_published
from dec2vec.decoder.model_folders import ADAPTER_WEIGHTS, MARKER, TrainedHead, find
from dec2vec.decoder.published import PublishedModel
from dec2vec.errors import UserError
from dec2vec.files.atomic import sha256_file
from dec2vec.hub import check_path_exists, is_commit

SETTINGS = "adapter_config.json"
_OPEN = ("pooling", "layer", "prompt", "max_length", "tokenization")
"""Options of `model` that None leaves open."""
_USUAL = ("task", "text_normalization", "dtype", "depth", "bidirectional")
"""Options that are taken from the adapter where they have their default."""
_FILES = [SETTINGS, ADAPTER_WEIGHTS, MARKER, HEAD_FILE, MODULES]
"""The files that are read of an adapter on the Hub."""
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
    place = _place(name)
    artifact = find(replace(config, name_or_path=str(place), adapter=None, revision=None))
    folder = _plain(name, place) if artifact is None else artifact.adapter
    if folder is None:
        raise UserError(
            f"model.adapter {name}: it holds whole weights and no adapter; train on from it with model.name_or_path "
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


def pinned_adapter(name: str) -> str:
    """`owner/name@COMMIT` of an adapter on the Hub, so that a run has one version of it although its branch moves.

    `name` is owner/name or owner/name@REVISION. The path of a folder stays as it is, and so does a name that the Hub
    does not know: reading it then reports what is wrong. UserError for a revision that does not exist.
    """
    repository, _, revision = name.partition("@")
    if Path(name).exists() or is_commit(revision):
        return name
    check_path_exists(repository, "model.adapter")
    try:
        commit = Path(hf_hub_download(repository, SETTINGS, revision=revision or None)).parent.name
    except RevisionNotFoundError:
        raise UserError(f"model.adapter {name}: no such revision; give a branch, a tag or a commit") from None
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return name
    return f"{repository}@{commit}" if is_commit(commit) else name


def _place(name: str) -> Path:
    """The folder that `model.adapter` names, or that of its files from the Hub."""
    if Path(name).exists():
        return Path(name)
    pinned = pinned_adapter(name)
    repository, _, revision = pinned.partition("@")
    if not is_commit(revision):
        raise UserError(
            f"model.adapter {name}: no {SETTINGS} on the Hub, or the Hub can't be reached; name a run, or the folder "
            "or Hub id (owner/name or owner/name@REVISION) of an adapter"
        )
    return _downloaded(repository, revision)


@cache
def _downloaded(repository: str, commit: str) -> Path:
    """The Hub is asked once: a commit never changes."""
    return Path(snapshot_download(repository, revision=commit, allow_patterns=_FILES))


def _plain(name: str, folder: Path) -> Path:
    """The folder of an adapter that dec2vec has not written."""
    if not (folder / SETTINGS).is_file():
        raise UserError(f"model.adapter {name}: no {SETTINGS}; name a run, or the folder or Hub id of an adapter")
    return folder


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
            raise UserError(f"model.adapter {adapter.name}: it names no decoder; give it with model.name_or_path")
        changes |= {"name_or_path": str(named), "revision": config.revision or source.get("revision")}
    return replace(config, **changes)
