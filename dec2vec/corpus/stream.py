"""Rows of a file in blocks, so that no more than one block is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.readers import Table
from dec2vec.table_formats import FORMATS, Numbered, text_lines


def iter_tables(path: Path, size: int) -> Iterator[Table]:
    """The file's rows in tables of `size`, the last one shorter; lines of a .txt are in the column `text`.

    UserError for a file that is missing, of unknown format or damaged, when its place is reached.
    """
    rows = _rows(path)
    unit = "line" if path.suffix.lower() in (".txt", ".jsonl") else "row"
    while block := list(islice(rows, size)):
        yield Table(str(path), unit, [row for _, row in block], [number for number, _ in block])


def count_rows(path: Path) -> int:
    """Rows of the file; UserError for none."""
    count = sum(1 for _ in _rows(path))
    if not count:
        raise UserError(f"{path} is empty: it has no rows")
    return count


def block_texts(path: Path, table: Table, column: str) -> list[str]:
    """Texts of a block as `readers.read_texts` has them: blank ones are kept."""
    name = "text" if path.suffix.lower() == ".txt" else column
    table.require([name])
    return [table.text(index, name, may_be_blank=True) for index in range(len(table))]


def _rows(path: Path) -> Iterator[Numbered]:
    suffix = path.suffix.lower()
    if suffix != ".txt" and suffix not in FORMATS:
        known = ", ".join((".txt", *FORMATS))
        raise UserError(f"{path}: a file that is read in blocks is one of {known}")
    if not path.is_file():
        raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    if suffix == ".txt":
        return ((number, {"text": line}) for number, line in text_lines(path))
    return FORMATS[suffix](path)
