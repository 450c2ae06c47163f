"""Which tuned encoder a folder holds, by content: a renamed, moved or exported copy of it has the same identity.

An evaluation writes down the identity of what it measured, and a model card takes the figures of its own weights alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.model_folders import ADAPTER_WEIGHTS, Artifact, find
from dec2vec.errors import UserError

READING = (
    "pooling",
    "pooled_layer",
    "depth",
    "bidirectional",
    "prompt",
    "task",
    "text_normalization",
    "tokenization",
    "max_length",
    "dtype",
)
"""Options of `model` that change the vectors of the same weights."""
_SCALES = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
"""Entries of an adapter's configuration that change what its weights do."""
_MAGNITUDE = "lora_magnitude_vector"
"""DoRA's. PEFT saves it under this name, an export with `.weight` behind it."""
_PIECES, _PIECE = 16, 4096
"""Of each tensor of a whole model, so many pieces of so many numbers are read: training moves all of them."""


@dataclass(frozen=True)
class Identity:
    """Digests of a tuned encoder."""

    weights: str
    """Of the trained weights, and of the options by which they read a text."""
    whitening: str | None
    """Of the whitening in the folder; None without one."""


def identify(name: str) -> Identity | None:
    """The identity of a run folder, an adapter folder, an exported folder or a Hub id.

    None where that is no tuned encoder of dec2vec, or one that can't be read. Merged weights have the identity of the
    adapter that lies beside them.
    """
    try:
        artifact = find(ModelConfig(name_or_path=name, device="cpu"))
        return None if artifact is None else _identity(artifact)
    except (UserError, OSError, ValueError, SafetensorError):
        return None


def _identity(artifact: Artifact) -> Identity:
    folder = artifact.adapter or Path(artifact.base.name_or_path)
    merged_from = folder / "adapter"
    if artifact.adapter is None and (merged_from / ADAPTER_WEIGHTS).is_file():
        folder = merged_from
    use = json.dumps([_reading(artifact.config), _scales(folder)], sort_keys=True)
    whitening = None if artifact.whitening is None else _digest("", _tensors([artifact.whitening]))
    return Identity(_digest(use, itertools.chain(_weights(folder), _head(artifact))), whitening)


def _head(artifact: Artifact) -> Iterator[tuple[str, Tensor]]:
    """The tensors of Dense layers that the run has trained."""
    tensors = {} if artifact.head is None else artifact.head.tensors
    return ((f"head {name}", tensors[name]) for name in sorted(tensors))


def _reading(config: ModelConfig) -> dict[str, object]:
    return {option: getattr(config, option) for option in READING}


def _scales(folder: Path) -> dict[str, Any]:
    file = folder / "adapter_config.json"
    if not file.is_file():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))
    return {name: found.get(name) for name in _SCALES}


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors of an adapter, or pieces of those of a whole model."""
    adapter = folder / ADAPTER_WEIGHTS
    if adapter.is_file():
        return _tensors([adapter])
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise UserError(f"{folder}: no safetensors weights")
    return ((name, _pieces(values)) for name, values in _tensors(files))


def _tensors(files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """By name, whatever file they are in."""
    places: dict[str, Path] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            places |= dict.fromkeys(tensors.keys(), file)
    for name in sorted(places):
        with safe_open(places[name], framework="pt") as tensors:
            yield name.replace(_MAGNITUDE + ".weight", _MAGNITUDE), tensors.get_tensor(name)


def _pieces(values: Tensor) -> Tensor:
    flat = values.reshape(-1)
    if flat.numel() <= _PIECES * _PIECE:
        return flat
    last = flat.numel() - _PIECE
    starts = [last * piece // (_PIECES - 1) for piece in range(_PIECES)]
    return torch.cat([flat[start : start + _PIECE] for start in starts])


def _digest(start: str, weights: Iterable[tuple[str, Tensor]]) -> str:
    """Equal for equal numbers, in whatever precision of at most 32 bits they are stored."""
    digest = hashlib.sha256(start.encode("utf-8", "surrogatepass"))
    for name, values in weights:
        exact = values.float() if values.is_floating_point() and values.element_size() < 4 else values
        digest.update(f"{name} {tuple(exact.shape)}".encode())
        digest.update(exact.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
