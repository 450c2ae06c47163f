"""The files of the model that is checked: those of dec2vec, of sentence-transformers, or of a plain decoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dec2vec.config.model import ModelConfig
from dec2vec.decoder import model_folders
from dec2vec.decoder.model_folders import Artifact
from dec2vec.errors import UserError

MODULES = "modules.json"
_UNREAD = ("*.bin", "*.pt", "*.onnx", "*.msgpack", "*.h5", "*.gguf", "onnx/*", "openvino/*")


@dataclass(frozen=True)
class ModelFiles:
    """`artifact` says how dec2vec loads the model; `library` is the folder that sentence-transformers loads."""

    config: ModelConfig
    folder: Path
    artifact: Artifact | None
    library: Path | None

    @property
    def folders(self) -> list[Path]:
        """All folders with files of this model."""
        folders = [] if self.library is None else [self.library]
        if self.artifact is not None:
            folders.insert(0, self.artifact.adapter or Path(self.artifact.base.name_or_path))
        return list(dict.fromkeys(folders)) or [self.folder]

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the sentence-transformers folder; empty if it is missing. UserError if it is not an object."""
        path = (self.library or self.folder) / name
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); copy or export it again") from None
        if not isinstance(content, dict):
            raise UserError(f"{path} contains a {type(content).__name__} instead of an object; copy or export it again")
        return content


def find_model_files(config: ModelConfig, changes: Mapping[str, Any] = MappingProxyType({})) -> ModelFiles:
    """The files of a local folder, or of the snapshot of a Hub id. UserError for anything else."""
    name = config.name_or_path
    folder = Path(name) if Path(name).is_dir() else _snapshot(name, config.revision)
    config = replace(config, name_or_path=str(folder), revision=None)
    candidates = (folder, folder / "model")
    library = next((path for path in candidates if (path / MODULES).is_file()), None)
    artifact = model_folders.find(config)
    changed = None if artifact is None else artifact.changed(changes)
    return ModelFiles(replace(config, **changes), folder, changed, library)


def _snapshot(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if Path(model).exists():
        raise UserError(f"model {model} is a file; give its folder")
    try:
        return Path(snapshot_download(model, revision=revision, ignore_patterns=list(_UNREAD)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0][:200].rstrip(".:")
        raise UserError(
            f"model {model}: there is no such folder, and the Hub could not be used ({reason}); check the name"
        ) from None
