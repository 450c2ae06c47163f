"""Files as they are and compressed with gzip or Zstandard, line by line.

A compressed file that ends before its end would otherwise pass for a shorter one, so the line is named after which
nothing more can be read.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from dec2vec.errors import UserError

COMPRESSIONS = (".gz", ".zst")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def content_suffix(path: Path) -> str:
    """The suffix of what a file contains, in lower case: `.jsonl` for both pairs.jsonl and pairs.jsonl.gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Iterable[bytes]]:
    """The content of a file in binary mode, decompressed if its last suffix is that of a compressed file."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        with gzip.open(path, "rb") as file:
            yield file
    elif suffix == ".zst":
        with open_zst(path) as file:
            yield file
    else:
        with path.open("rb") as file:
            yield file


def open_zst(path: Path) -> io.BufferedReader:
    """The decompressed content of a Zstandard file, through pyarrow: Python has its own decoder only from 3.14 on."""
    import pyarrow

    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"))


def byte_lines(path: Path) -> Iterator[bytes]:
    """The lines without their \\n, and without a byte order mark at the start."""
    number = 0
    try:
        with opened(path) as file:
            for number, line in enumerate(file, start=1):
                begun = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                if begun:
                    yield begun.removesuffix(b"\n")
    except (EOFError, zlib.error, OSError) as error:
        raise _unreadable(path, error, number) from None


def whole_text(path: Path) -> str:
    """The whole content as UTF-8 text, without a byte order mark."""
    try:
        return b"\n".join(byte_lines(path)).decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{error.object[error.start]:02x}"
        raise UserError(f"{path} line {line}: {byte} is not UTF-8; save the file as UTF-8") from None


def _unreadable(path: Path, error: Exception, lines: int) -> UserError:
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f"{path} cannot be read: {error.strerror}")
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return UserError(f"{path} ends early, after line {lines}: a part of the file is missing; copy it again")
    return UserError(f"{path} line {lines + 1}: not a {path.suffix} file, or damaged ({error}); copy it again")
