"""Tell local folders from Hub ids. A misspelt folder is refused instead of being looked up on the Hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
)

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError


def check_path_exists(name: str, what: str = "model") -> None:
    """Raise UserError if `name` can only be meant as a folder that does not exist.

    These are paths such as ./x, ../x, /x, ~/x and x/y/z, and x/y if there is a folder x and the Hub id x/y was not
    downloaded before. Without a network, looking them up on the Hub would take a minute of retries.
    """
    path = Path(name)
    if not name or path.exists():
        return
    if name.startswith((".", "/", "~")) or len(path.parts) > 2:
        raise UserError(f"{what} {name}: no such folder; check the path, or give a Hub id (owner/name)")
    if len(path.parts) == 2 and path.parent.is_dir() and not _is_downloaded(name):
        raise UserError(
            f"{what} {name}: there is no such folder in {path.parent}/; check the path (or run in another folder to "
            "use the Hub id)"
        )


def _is_downloaded(name: str) -> bool:
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "dec2vec.json"))
    except HFValidationError:
        return False


def is_on_hub(name: str, file: str, revision: str | None = None) -> bool:
    """Whether a Hub repository has a file; without a network, whether the file was downloaded before."""
    try:
        hf_hub_download(name, file, revision=revision)
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return False
    return True


def pinned_revision(config: ModelConfig) -> str | None:
    """The commit that a Hub id points to now, so that a run can be repeated after its branch has moved.

    For a folder, or if the Hub does not answer, it is the revision of `config`: loading then reports what is wrong.
    UserError for a path that does not exist.
    """
    if not config.name_or_path or Path(config.name_or_path).exists():
        return config.revision
    check_path_exists(config.name_or_path)
    try:
        file = hf_hub_download(config.name_or_path, "config.json", revision=config.revision)
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return config.revision
    commit = Path(file).parent.name
    return commit if is_commit(commit) else config.revision


def is_commit(revision: str) -> bool:
    """Whether a revision is the whole name of a commit, which always stands for the same files."""
    return re.fullmatch("[0-9a-f]{40}", revision) is not None
