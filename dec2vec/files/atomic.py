"""Files that are complete or absent, even after a crash: they are written under another name and then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError

from dec2vec.errors import UserError

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_HASH_CHUNK = 1 << 20
_TEMPORARY = re.compile(r"\..+\.(\d+)\.(?:tmp|old)")


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path next to `target`; the file or folder written there replaces `target` when the block ends.

    After a crash `target` is complete, old or new: what was written is on the disk before it is renamed. If the block
    fails, `target` is left alone and the temporary file or folder is removed.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    _remove(temporary)
    try:
        yield temporary
        _sync(temporary)
        if temporary.is_dir():
            _replace_folder(temporary, target)
        else:
            temporary.replace(target)
    finally:
        _remove(temporary)
    fsync_directory(target.parent)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """`atomic_path` for a folder, which exists when the block begins; UserError for a disk that can't be written."""
    try:
        with atomic_path(target) as temporary:
            temporary.mkdir(parents=True)
            yield temporary
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        raise UserError(f"{target}: can't be written; {why_not_written(error, 'folder')}") from error


@contextlib.contextmanager
def written(path: Path, option: str = "--output") -> Iterator[None]:
    """Within, a failed write of `path` becomes a UserError; `option` is where the user chose the path."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # FAISS reports a full disk as a RuntimeError
        raise UserError(f"{path} cannot be written: {why_not_written(error, option)}") from error


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Replace the content of `path`: after a crash the file holds the old bytes or the new ones, never a part."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_files(files: Mapping[Path, bytes]) -> None:
    """Write several files, none of which is replaced before all are on the disk; they are replaced in this order."""
    with contextlib.ExitStack() as stack:
        for path, data in reversed(list(files.items())):
            temporary = stack.enter_context(atomic_path(path))
            temporary.write_bytes(data)
            fsync_file(temporary)


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` in UTF-8."""
    atomic_write_bytes(path, text.encode("utf-8"))


def remove_leftovers(folder: Path, of: Path | None = None) -> None:
    """Remove the files and folders `.NAME.PID.tmp` and `.NAME.PID.old` that killed processes have left.

    `of`: only those of this file or folder.
    """
    for path in folder.glob(".*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None or _is_alive(int(match.group(1))):
            continue
        if of is not None and not path.name.startswith(f".{of.name}.{match.group(1)}."):
            continue
        _remove(path)


def fsync_file(path: Path) -> None:
    """Wait until the file's bytes are on the disk."""
    _fsync(path, os.O_RDONLY)


def fsync_directory(path: Path) -> None:
    """Wait until the folder's entries are on the disk. Only then does a rename survive a power cut."""
    _fsync(path, os.O_RDONLY | os.O_DIRECTORY)


def sha256_file(path: Path) -> str:
    """The sha256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def refuse_pickle(path: Path) -> None:
    """Refuse a file whose name or first bytes are those of a pickle, because reading it can run any code.

    torch.save writes a zip archive, which begins with PK. Older files begin with the mark of a pickle protocol.
    """
    if path.suffix in PICKLE_SUFFIXES or _looks_pickled(path):
        raise UserError(
            f"{path} is a pickle, which could run code when read; convert it to .safetensors "
            "(safetensors.torch.save_file) in an environment where you trust it"
        )


def why_not_written(error: Exception, option: str = "output_dir") -> str:
    """The reason of a failed write and its fix in a few words, also for errors of libraries in Rust and C++.

    `option` is what the user may choose otherwise.
    """
    number = error.errno if isinstance(error, OSError) and error.errno is not None else _error_number(str(error))
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full; free some space or choose another {option}"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"it is not writable; change its permissions or choose another {option}"
    if number in (errno.ENOTDIR, errno.EEXIST):
        return f"a file is in the way of a folder; move it or choose another {option}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = os.strerror(number) if number is not None else lines[0][:200]
    return f"{reason}; choose another {option}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _error_number(message: str) -> int | None:
    """The errno in the message of a library that writes files itself: Rust, Arrow, FAISS and numpy."""
    match = re.search(r"\(os error (\d+)\)|\[errno (\d+)\]", message, re.I)
    if match:
        return int(match.group(1) or match.group(2))
    if re.search(r"\d+ requested and \d+ written", message):
        return errno.ENOSPC
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return next((number for number in known if os.strerror(number) in message), None)


def _looks_pickled(path: Path) -> bool:
    """Whether the first bytes are those of a pickle. In a safetensors file `{` follows eight bytes of length."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:9] != b"{" and head.startswith(_PICKLE_STARTS)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder with all that is in it, is on the disk."""
    if not path.is_dir():
        fsync_file(path)
        return
    for inner in path.rglob("*"):
        (fsync_directory if inner.is_dir() else fsync_file)(inner)
    fsync_directory(path)


def _replace_folder(temporary: Path, target: Path) -> None:
    """A rename can't replace a folder that has files in it, so the old one is moved aside first."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(aside)
    temporary.rename(target)
    fsync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(
    path: Path, suffixes: Sequence[str] = (), *, inputs: Iterable[Path | str | None] = (), option: str = "output"
) -> None:
    """Raise UserError if `path` can't be written, is one of `inputs`, or has none of the `suffixes` that are given."""
    if suffixes and path.suffix not in suffixes:
        formats = " or ".join(suffixes)
        raise UserError(f"{option} {path}: unknown format {path.suffix or 'without a suffix'}; use {formats}")
    if path.resolve() in {Path(name).resolve() for name in inputs if name is not None}:
        raise UserError(f"{option} {path} is an input file; use another file")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; give a file")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{option} {path}: the folder {path.parent} is not writable")
