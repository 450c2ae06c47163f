"""The folders that training writes: where the base, the adapter and the whitening of a tuned encoder are.

`dec2vec.json` marks a folder as ours: {"format": 1, "model": {the model section}}. Beside it lies either a PEFT
adapter (then `model.name_or_path` is the base) or a whole model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import snapshot_download
from peft import PeftModel
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from torch import nn

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.load import quiet
from dec2vec.errors import UserError
from dec2vec.hub import check_path_exists, is_on_hub

MARKER = "dec2vec.json"
FORMAT = 1


@dataclass(frozen=True)
class Artifact:
    """A tuned encoder on disk: `config` reads it, `base` is loaded, `adapter` is put on top."""

    config: ModelConfig
    base: ModelConfig
    adapter: Path | None
    whitening: Path | None


def find(config: ModelConfig) -> Artifact | None:
    """What lies at `config.name_or_path` if one of our folders does, else None (then it is a plain base model).

    UserError at once where that is the path of no folder.
    """
    check_path_exists(config.name_or_path)
    folder = _local_folder(config)
    if folder is None:
        return None
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        saved = TypeAdapter(ModelConfig).validate_python(marker["model"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{folder / MARKER}: damaged ({type(error).__name__}); export the run again") from error
    if marker.get("format") != FORMAT:
        raise UserError(f"{folder / MARKER}: format {marker.get('format')!r} is not {FORMAT}; update dec2vec")
    return _artifact(folder, _as_asked(saved, config))


def _as_asked(saved: ModelConfig, asked: ModelConfig) -> ModelConfig:
    """The folder says how it is read; where it runs, and whether foreign code may, is the caller's to say."""
    return replace(saved, device=asked.device, trust_remote_code=asked.trust_remote_code)


def _artifact(folder: Path, saved: ModelConfig) -> Artifact:
    whitening = folder / "whitening.safetensors"
    has_adapter = (folder / "adapter_config.json").is_file()
    base = saved if has_adapter else replace(saved, name_or_path=str(folder), revision=None)
    if Path(base.name_or_path).is_absolute() and not Path(base.name_or_path).is_dir():
        raise UserError(
            f"{folder / MARKER}: the base model {base.name_or_path} is gone; put it back, or correct name_or_path there"
        )
    return Artifact(
        config=saved,
        base=base,
        adapter=folder if has_adapter else None,
        whitening=whitening if whitening.is_file() else None,
    )


def attach_adapter(backbone: nn.Module, folder: Path) -> nn.Module:
    """PEFT's own loading, from safetensors."""
    if not (folder / "adapter_model.safetensors").is_file():
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
    """A whole snapshot if the repository carries our marker. Without a network a base model may still be cached."""
    if not is_on_hub(config.name_or_path, MARKER, config.revision):
        return None
    return Path(snapshot_download(config.name_or_path, revision=config.revision))
