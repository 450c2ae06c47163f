"""The folders that training writes: they hold the adapter or the weights, and the whitening, of a tuned encoder.

`dec2vec.json` marks such a folder: {"format": 1, "model": {the model section}}. The folder also holds either a PEFT
adapter, whose base is `model.name_or_path`, or a complete model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from peft import PeftModel
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.dense_head import HEAD_FILE, DenseHead, Step
from dec2vec.decoder.library_calls import quiet
from dec2vec.decoder.pooling import View, belongs_to
from dec2vec.decoder.published import Published, PublishedModel
from dec2vec.errors import UserError
from dec2vec.hub import check_path_exists, is_on_hub

MARKER = "dec2vec.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FORMAT = 1
FORMAT_WITH_HEAD = 2
"""With Dense layers that the run has trained, which earlier versions would leave out."""


@dataclass(frozen=True)
class TrainedHead:
    """Dense layers of a run, and the reading of the decoder for which they were trained."""

    steps: tuple[Step, ...]
    tensors: Mapping[str, Tensor]
    view: View

    def fits(self, view: View, layer_count: int) -> bool:
        """Whether they belong to the pooling and layer of `view`."""
        return belongs_to(self.view, view, layer_count)

    @property
    def module(self) -> DenseHead:
        """The layers, with weights that stay as they are."""
        return DenseHead(self.steps, self.tensors)


@dataclass(frozen=True)
class Artifact:
    """A tuned encoder on disk. `base` is loaded, `adapter` is put on top, and `config` says how texts are read."""

    config: ModelConfig
    base: ModelConfig
    adapter: Path | None
    whitening: Path | None
    published: PublishedModel | None = None
    """The reading of the published embedder that it was tuned from, and the weights of its Dense layers."""
    head: TrainedHead | None = None
    """All Dense layers behind the pooling, if the run has trained one of them."""

    def changed(self, changes: Mapping[str, Any]) -> Artifact:
        """The same encoder with other options of the `model` section."""
        return replace(self, config=replace(self.config, **changes), base=replace(self.base, **changes))


def find(config: ModelConfig) -> Artifact | None:
    """The tuned encoder at `config.name_or_path`; None if this is a base model.

    UserError for the path of a folder that does not exist.
    """
    check_path_exists(config.name_or_path)
    folder = _local_folder(config)
    if folder is None:
        return None
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        saved = TypeAdapter(ModelConfig).validate_python(marker["model"])
        reading = Published.from_json(marker["published"]) if marker.get("published") else None
        steps = TypeAdapter(tuple[Step, ...]).validate_python(marker.get("head", ()))
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{folder / MARKER}: damaged ({type(error).__name__}); export the run again") from error
    if marker.get("format") not in (FORMAT, FORMAT_WITH_HEAD):
        raise UserError(f"{folder / MARKER}: format {marker.get('format')!r} is not {FORMAT}; update dec2vec")
    return _artifact(folder, _on_device(saved, config), reading, steps)


def _on_device(saved: ModelConfig, config: ModelConfig) -> ModelConfig:
    """The saved configuration with the caller's device, permission to run foreign code, and limit of images."""
    return replace(
        saved, device=config.device, trust_remote_code=config.trust_remote_code, max_pixels=config.max_pixels
    )


def _artifact(folder: Path, saved: ModelConfig, reading: Published | None, trained: tuple[Step, ...] = ()) -> Artifact:
    whitening = folder / "whitening.safetensors"
    has_adapter = (folder / "adapter_config.json").is_file()
    base = saved if has_adapter else replace(saved, name_or_path=str(folder), revision=None)
    if Path(base.name_or_path).is_absolute() and not Path(base.name_or_path).is_dir():
        raise UserError(
            f"{folder / MARKER}: the base model {base.name_or_path} does not exist; restore it, or correct "
            "name_or_path in this file"
        )
    return Artifact(
        config=saved,
        base=base,
        adapter=folder if has_adapter else None,
        whitening=whitening if whitening.is_file() else None,
        published=None if reading is None else PublishedModel(reading, _head_tensors(folder, reading.steps)),
        head=TrainedHead(trained, _head_tensors(folder, trained), _trained_view(saved)) if trained else None,
    )


def _trained_view(saved: ModelConfig) -> View:
    return View(saved.pooling_name, saved.pooled_layer, dense=True)


def _head_tensors(folder: Path, steps: Sequence[Step]) -> dict[str, Tensor]:
    """The weights of the Dense layers. UserError if they are missing."""
    if not any(step.kind == "dense" for step in steps):
        return {}
    try:
        found: dict[str, Tensor] = load_file(folder / HEAD_FILE)
        return found
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / HEAD_FILE}: missing or damaged ({error}); export the run again") from error


def attach_adapter(backbone: nn.Module, folder: Path) -> nn.Module:
    """Load an adapter by PEFT, from safetensors only."""
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"{folder}: no adapter_model.safetensors; pickled adapters are not read, export the run again")
    try:
        with quiet():
            adapted: nn.Module = PeftModel.from_pretrained(backbone, str(folder)).eval()
            return adapted
    except SafetensorError as error:
        raise UserError(
            f"{folder / 'adapter_model.safetensors'}: damaged ({error}); copy or export it again"
        ) from error
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{folder}: the adapter does not fit the base model; {str(error).splitlines()[0]}") from error


def _local_folder(config: ModelConfig) -> Path | None:
    path = Path(config.name_or_path)
    if not config.name_or_path:
        return None
    if not path.is_dir():
        return _hub_folder(config)
    for folder in (path, path / "adapter", path / "model"):
        if (folder / MARKER).is_file():
            return folder
    return None


def _hub_folder(config: ModelConfig) -> Path | None:
    """A snapshot of the repository if it has our marker. Without a network a base model may still be cached."""
    if not is_on_hub(config.name_or_path, MARKER, config.revision):
        return None
    return Path(snapshot_download(config.name_or_path, revision=config.revision))
