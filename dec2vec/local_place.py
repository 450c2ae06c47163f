"""A misspelt folder must not be looked up at the Hub: without a network that is a minute of retries."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from dec2vec.errors import UserError


def refuse_missing_folder(name: str, what: str = "model") -> None:
    """UserError where `name` can only be meant as a folder, and there is none.

    That is a path (./x, ../x, /x, ~/x, x/y/z), or x/y beside other things in a folder x that is here, unless the Hub
    id x/y was downloaded before.
    """
    path = Path(name)
    if not name or path.exists():
        return
    if name.startswith((".", "/", "~")) or len(path.parts) > 2:
        raise UserError(f"{what} {name}: no such folder; check the path, or give a Hub id (owner/name)")
    if len(path.parts) == 2 and path.parent.is_dir() and not _is_downloaded(name):
        raise UserError(
            f"{what} {name}: no such folder in {path.parent}/; check the path (or, for the Hub id, start elsewhere)"
        )


def _is_downloaded(name: str) -> bool:
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", "dec2vec.json"))
    except HFValidationError:
        return False
