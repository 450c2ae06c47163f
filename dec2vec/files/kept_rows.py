"""Rows that are given in Python, kept as a file in the run folder, so that all that reads files can read them.

A run is resumed, evaluated and exported by later processes, which have no access to the memory of this one. The file is
named after its content: equal rows are one file, and other rows never take its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.atomic import fsync_file, remove_leftovers, written
from dec2vec.files.given_rows import each_row

FOLDER, _START = "rows", "in-memory-"
_NOTHING = ("NAType", "NaTType")
"""Types of what pandas has in the place of a missing value, besides NaN."""


def keep_rows(rows: object, folder: Path, kind: str, name: str = "") -> Path:
    """Write the rows of a table (`given_rows`) to `folder` as JSON lines. UserError for cells that JSON can't hold.

    `kind` is what the caller gives them as, such as data or dev; `name` is what messages call them, such as data[1].
    """
    digest = hashlib.sha256()
    temporary = folder / f".{kind}.{os.getpid()}.tmp"
    with written(folder, "output_dir"):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    try:
        with written(folder, "output_dir"), temporary.open("wb") as file:
            for line in _lines(rows, name or kind):
                digest.update(line)
                file.write(line)
        fsync_file(temporary)
        target = folder / f"{_START}{kind}-{digest.hexdigest()[:12]}.jsonl"
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def kept_in(run: Path, source: str) -> str:
    """The file of rows that a run has kept, also where its folder was moved since; any other source as it is."""
    here = run / FOLDER / Path(source).name
    return str(here.resolve()) if is_kept(source) and here.is_file() else source


def is_kept(source: str) -> bool:
    """Whether a source is a file of rows that were given in Python."""
    return Path(source).parent.name == FOLDER and Path(source).name.startswith(_START)


def _lines(rows: object, name: str) -> Iterator[bytes]:
    for number, row in enumerate(each_row(rows, name), start=1):
        plain = {str(key): value for key, value in row.items()} if isinstance(row, Mapping) else row
        if len(plain) != len(row):
            raise UserError(f"{name} row {number} has two columns of one name, such as 1 and '1'; rename one of them")
        try:
            line = _encoded(plain)
        except (TypeError, ValueError, RecursionError) as error:
            problem = str(error).splitlines()[0]
            raise UserError(
                f"{name} row {number} can't be written as JSON ({problem}); use texts and numbers"
            ) from None
        yield line + b"\n"


def _encoded(row: object) -> bytes:
    text = json.dumps(row, default=_plain, ensure_ascii=False)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(row, default=_plain).encode("ascii")


def _plain(value: Any) -> object:
    """What JSON has in place of a value of another type. Bytes become an object, which is refused where a text is
    wanted."""
    if type(value).__name__ in _NOTHING:
        return None
    if hasattr(value, "tolist"):  # numpy and torch
        return value.tolist()
    if isinstance(value, bytes):
        return {"bytes": len(value)}
    return str(value)
