"""The decoder that a model was tuned from, as a card names it: without the place of a local folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.model_folders import MARKER
from train.export.card_data import is_hub_id


@dataclass(frozen=True)
class Base:
    """`hub_id` is what the model descends from on the Hub, perhaps through a local model of dec2vec."""

    name: str
    hub_id: str | None
    words: str


def describe_base(model: ModelConfig) -> Base:
    """The decoder itself, or a model of dec2vec from which training went on; and an adapter that it had already."""
    base = _describe_decoder(model)
    if model.adapter is None:
        return base
    on = f"{base.words}, on from the adapter `{_shown(model.adapter)}`, which was trained on other data before"
    return Base(base.name, base.hub_id, on)


def _shown(adapter: str) -> str:
    """The name of a run, or of a folder or Hub id."""
    path = Path(adapter)
    if not path.is_dir():
        return adapter
    return path.parent.name if path.name in ("adapter", "model") else path.name


def _describe_decoder(model: ModelConfig) -> Base:
    name = model.name_or_path
    if is_hub_id(name):
        pinned = f" (revision `{model.revision}`)" if model.revision else ""
        return Base(name, name, f"`{name}`{pinned}")
    shown, first = Path(name).name, _origin(name)
    if first is None:
        return Base(shown, None, f"`{shown}`, a local folder when this was trained")
    hub_id = first if is_hub_id(first) else None
    base = hub_id or Path(first).name
    return Base(shown, hub_id, f"`{shown}`, a local model that dec2vec had tuned from `{base}`")


def _origin(name: str) -> str | None:
    """Where a chain of models tuned by dec2vec began; None for any other folder."""
    found, seen = None, {name}
    while (Path(name) / MARKER).is_file():
        try:
            name = str(json.loads((Path(name) / MARKER).read_text(encoding="utf-8"))["model"]["name_or_path"])
        except (ValueError, KeyError, TypeError):
            return found
        found = name
        if name in seen:
            return found
        seen.add(name)
    return found
