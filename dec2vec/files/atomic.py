"""Files that are either whole or absent: write under another name, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError

from dec2vec.errors import UserError

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_HASH_CHUNK = 1 << 20
_TEMPORARY = re.compile(r"\..+\.(\d+)\.(?:tmp|old)")


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: after a crash the file holds the old bytes or the new ones, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` in UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing here: `.NAME.PID.tmp` and `.old`, files and folders."""
    for path in folder.glob(".*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or _is_alive(int(found.group(1))):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def fsync_file(path: Path) -> None:
    """Wait until the file's bytes are on the disk."""
    _fsync(path, os.O_RDONLY)


def fsync_directory(path: Path) -> None:
    """Wait until the folder's entries are on the disk: a rename survives a power cut only after this."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def refuse_pickle(path: Path) -> None:
    """Refuse a pickle by its name or its first bytes: reading one can run any code.

    torch.save writes a zip archive (PK), older ones start with a pickle protocol mark.
    """
    if path.suffix in PICKLE_SUFFIXES or _looks_pickled(path):
        raise UserError(
            f"{path} is a pickle, which could run code when read; convert it to .safetensors "
            "(safetensors.torch.save_file) in an environment where you trust it"
        )


def why_not_written(error: Exception) -> str:
    """The reason of a failed write and its fix, in a few words; understands errors of Rust libraries too."""
    number = error.errno if isinstance(error, OSError) else _os_error_number(str(error))
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space or choose another --output_dir"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "it is not writable; change its permissions or choose another --output_dir"
    if number in (errno.ENOTDIR, errno.EEXIST):
        return "a file is in the way of a folder; move it or choose another --output_dir"
    reason = os.strerror(number) if number is not None else str(error)
    return f"{reason}; choose another --output_dir"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _os_error_number(message: str) -> int | None:
    found = re.search(r"\(os error (\d+)\)", message)
    return int(found.group(1)) if found else None


def _looks_pickled(path: Path) -> bool:
    """By the first bytes; a safetensors file has its header's length there and `{` right after."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:9] != b"{" and head.startswith(_PICKLE_STARTS)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
