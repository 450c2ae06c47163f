"""Rows that are given in Python, kept as a file in the run folder, so that all that reads files can read them.

A run is resumed, evaluated and exported by later processes, which have no access to the memory of this one. The file is
named after its content: equal rows are one file, and other rows never take its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.atomic import fsync_file, remove_leftovers, written

FOLDER, _START = "rows", "in-memory-"
_BLOCK = 8192
_NOTHING = ("NAType", "NaTType")
"""Types of what pandas has in the place of a missing value, besides NaN."""


def keep_rows(rows: object, folder: Path, name: str) -> Path:
    """Write the rows to `folder` as JSON lines. `name` is what the caller calls them, such as data or dev.

    Rows are a `datasets.Dataset`, a pandas frame, or any iterable of mappings or of lists of texts. UserError for
    anything else.
    """
    digest = hashlib.sha256()
    temporary = folder / f".{name}.{os.getpid()}.tmp"
    with written(folder, "output_dir"):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
    try:
        with written(folder, "output_dir"), temporary.open("wb") as file:
            for line in _lines(rows, name):
                digest.update(line)
                file.write(line)
        fsync_file(temporary)
        target = folder / f"{_START}{name}-{digest.hexdigest()[:12]}.jsonl"
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def kept_in(run: Path, source: str) -> str:
    """The file of rows that a run has kept, also where its folder was moved since; any other source as it is."""
    here = run / FOLDER / Path(source).name
    is_kept = Path(source).parent.name == FOLDER and Path(source).name.startswith(_START)
    return str(here.resolve()) if is_kept and here.is_file() else source


def are_rows(value: object) -> bool:
    """Whether a value is one table of rows, and not several tables, or the name of a file."""
    if isinstance(value, (str, os.PathLike)):
        return False
    return not isinstance(value, (list, tuple)) or not value or _is_row(value[0])


def _is_row(item: object) -> bool:
    """Whether an item is a mapping of columns, or texts without columns as in sentence-transformers' lists."""
    is_list = isinstance(item, (list, tuple))
    return isinstance(item, Mapping) or (is_list and all(isinstance(text, str) for text in item))  # type: ignore[attr-defined]


def _lines(rows: object, name: str) -> Iterator[bytes]:
    for number, row in enumerate(_each(rows, name), start=1):
        if not _is_row(row):
            raise UserError(f"{name} row {number} is a {type(row).__name__}; a row is a dict of columns")
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


def _each(rows: object, name: str) -> Iterator[Any]:
    if isinstance(rows, Mapping):
        splits = ", ".join(map(str, list(rows)[:5]))
        raise UserError(f"{name}: a {type(rows).__name__} of {splits}; give one table, such as {name}[{splits!r}]")
    if _is_frame(rows):
        frame: Any = rows
        for start in range(0, len(frame), _BLOCK):
            yield from frame.iloc[start : start + _BLOCK].to_dict(orient="records")
        return
    if not isinstance(rows, Iterable):
        raise UserError(f"{name}: a {type(rows).__name__}; give a datasets.Dataset, a pandas frame or a list of dicts")
    plain: Any = rows.with_format(None) if hasattr(rows, "with_format") else rows
    yield from plain


def _is_frame(rows: object) -> bool:
    """Whether these are a pandas frame, without importing pandas."""
    return hasattr(rows, "iloc") and hasattr(rows, "to_dict") and hasattr(rows, "columns")


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
