"""Folders that are either whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from dec2vec.errors import UserError
from dec2vec.files import fsync_directory, fsync_file, why_not_written


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary sibling to write into. It takes the place of `target` when the block ends, and vanishes if it fails.

    A folder that stands there already stays readable until the new one is complete on the disk.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        _replace(target, temporary)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        raise UserError(f"{target}: can't be written; {why_not_written(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(target: Path, temporary: Path) -> None:
    for path in temporary.rglob("*"):
        (fsync_directory if path.is_dir() else fsync_file)(path)
    fsync_directory(temporary)
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    fsync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)
