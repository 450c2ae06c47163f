"""Is there a place for the file that a command will write? Asked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dec2vec.errors import UserError


def check_output(
    path: Path, suffixes: Sequence[str] = (), *, inputs: Iterable[Path | str | None] = (), option: str = "output"
) -> None:
    """Raise UserError where `path` can't be written, has none of `suffixes` (any, if empty) or is one of `inputs`."""
    if suffixes and path.suffix not in suffixes:
        known = " or ".join(suffixes)
        raise UserError(f"{option} {path}: unknown format {path.suffix or 'without a suffix'}; use {known}")
    if path.resolve() in {Path(name).resolve() for name in inputs if name is not None}:
        raise UserError(f"{option} {path} is an input; name another file")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{option} {path}: the folder {path.parent} is not writable")
