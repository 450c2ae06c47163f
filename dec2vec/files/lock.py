"""Locks on folders that one process at a time may write into.

They are the operating system's locks (flock), so a process that is killed leaves none behind.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from dec2vec.errors import UserError

LOCK = ".lock"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS})
"""What a file system without locks answers."""
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder if needed and hold its lock; wait while another process holds it."""
    with _lock_of(folder):
        yield


def lock_folder(folder: Path, option: str, holder: str) -> BaseFileLock:
    """Create the folder if needed and hold its lock until `release` is called or the process ends.

    Raises UserError, which names the other process, if the lock is taken: `option` is where the user chose the folder,
    `holder` what the other process is ("run"). A file system without locks gives a warning only.
    """
    lock = _lock_of(folder)
    owner = folder / LOCK
    try:
        lock.acquire(blocking=False)
    except Timeout:
        process = owner.read_text(encoding="utf-8").strip() or "unknown"
        raise UserError(
            f"{option} {folder} is in use by another {holder} (process {process}); wait for it to end, "
            f"or choose another {option}"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning("%s can't be locked on this file system; don't start a second %s there", folder, holder)
    owner.write_text(f"{os.getpid()}\n", encoding="utf-8")
    return lock


def _lock_of(folder: Path) -> BaseFileLock:
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / LOCK, thread_local=False, fallback_to_soft=False)
