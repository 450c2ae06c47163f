"""Single files of a model folder or of a Hub repository, read one by one without the weights of the decoder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dec2vec.errors import UserError
from dec2vec.files.atomic import refuse_pickle


@dataclass(frozen=True)
class Files:
    """The files of a folder or of a Hub repository."""

    name: str
    revision: str | None

    def path(self, file: str) -> Path | None:
        """A file on this machine; None if there is none of this name."""
        folder = Path(self.name)
        if folder.is_dir():
            return folder / file if (folder / file).is_file() else None
        try:
            return Path(hf_hub_download(self.name, file, revision=self.revision))
        except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
            return None

    def json(self, file: str) -> Any:
        """The content of a JSON file; an empty mapping if there is none."""
        path = self.path(file)
        if path is None:
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); copy or download it again") from None

    def mapping(self, file: str) -> dict[str, Any]:
        """The same for a file that holds an object."""
        content = self.json(file)
        if not isinstance(content, dict):
            raise UserError(f"{self.name}/{file} contains a {type(content).__name__} instead of an object")
        return content

    def tensors(self, module: str) -> dict[str, Tensor]:
        """The weights of a module, from safetensors only."""
        path = self.path(f"{module}/model.safetensors")
        if path is None:
            pickle = self.path(f"{module}/pytorch_model.bin")
            if pickle is not None:
                refuse_pickle(pickle)
            raise UserError(f"model {self.name}: no {module}/model.safetensors; copy its files again")
        try:
            found: dict[str, Tensor] = load_file(path)
            return found
        except SafetensorError as error:
            raise UserError(f"{path}: damaged ({error}); copy or download it again") from error
