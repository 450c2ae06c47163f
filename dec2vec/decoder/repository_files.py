"""Single files of a model folder or of a Hub repository, read one by one without the weights of the decoder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dec2vec.errors import UserError
from dec2vec.files.atomic import refuse_pickle

_log = logging.getLogger(__name__)
_Kind = TypeVar("_Kind")
_KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", str: "a string", dict: "an object"}


class NotAsked(UserError):
    """Nobody knows whether there is such a file: it is not on this machine, and the Hub gave no answer."""

    def __init__(self, name: str, file: str, cause: Exception) -> None:
        self.is_final = constants.HF_HUB_OFFLINE or isinstance(cause, (RepositoryNotFoundError, RevisionNotFoundError))
        """The same holds for any other file."""
        why = "offline" if constants.HF_HUB_OFFLINE else (str(cause).splitlines() or [type(cause).__name__])[0]
        super().__init__(
            f"model {name}: {file} is not on this machine, and the Hub can't be asked for it ({why}); download the "
            f"whole model once (hf download {name})"
        )


@dataclass(frozen=True)
class Files:
    """The files of a folder or of a Hub repository."""

    name: str
    revision: str | None

    def path(self, file: str) -> Path | None:
        """A file on this machine; None if there is none of this name. NotAsked if nobody knows."""
        folder = Path(self.name)
        if folder.is_dir():
            return folder / file if (folder / file).is_file() else None
        try:
            return Path(hf_hub_download(self.name, file, revision=self.revision))
        except HFValidationError:
            return None
        except (EntryNotFoundError, HfHubHTTPError, OSError) as error:
            is_absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
            if is_absent or self._is_known_to_be_absent(file):
                return None
            raise NotAsked(self.name, file, error) from None

    def has_cached(self, file: str) -> bool:
        """Whether a file of a repository was downloaded before."""
        return isinstance(try_to_load_from_cache(self.name, file, revision=self.revision), str)

    def _is_known_to_be_absent(self, file: str) -> bool:
        """Whether the Hub said so when it was asked before, for this file or for a list of all files."""
        found = try_to_load_from_cache(self.name, file, revision=self.revision)
        if found is not None:
            return not isinstance(found, str)
        if not hasattr(huggingface_hub, "get_cached_repo_tree"):  # as in the first versions 1
            return False
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        try:
            listed = huggingface_hub.get_cached_repo_tree(self.name, revision=self.revision)
        except CachedRepoTreeNotFoundError:
            return False
        return file not in {each.path for each in listed}

    def required(self, file: str) -> dict[str, Any]:
        """An object of settings. UserError if the file is missing."""
        if self.path(file) is None:
            raise UserError(f"{self.name}/{file} is missing; copy or download the model's files again")
        return self.mapping(file)

    def optional(self, file: str, *, quiet: bool = False) -> dict[str, Any]:
        """An object of settings; empty if there is none, and (with a warning unless `quiet`) if nobody knows."""
        try:
            return self.mapping(file)
        except NotAsked as error:
            if not quiet:
                warn_once(f"{error}; until then it is taken to be absent")
            return {}

    def has(self, file: str) -> bool:
        """Whether there is such a file, as far as is known."""
        try:
            return self.path(file) is not None
        except NotAsked:
            return False

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


def entry(content: Mapping[str, Any], name: str, kind: type[_Kind], where: str) -> _Kind | None:
    """An entry of an object; None if there is none, or null. UserError for an entry of another kind."""
    found = content.get(name)
    if kind is int and isinstance(found, float) and found.is_integer():
        found = int(found)
    if found is None:
        return None
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise UserError(f"{where}: {name} is {str(found)[:40]!r} instead of {_KINDS[kind]}; correct the file")
    return found


@cache
def warn_once(words: str) -> None:
    """Once a process: the files are read more than once by a command."""
    _log.warning("%s", words)
