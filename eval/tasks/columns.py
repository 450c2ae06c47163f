"""Which columns of a file a task was read from, and which others were there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dec2vec.files.tables import Table

ALIKE = (
    frozenset({"score", "label", "similarity"}),
    frozenset({"label", "label_text", "label_name"}),
    frozenset({"text", "title", "anchor", "sentence1", "query"}),
    frozenset({"id", "_id"}),
    frozenset({"query_id", "query-id"}),
    frozenset({"doc_id", "corpus-id"}),
)
"""Columns that could serve for each other."""


@dataclass(frozen=True)
class ColumnsRead:
    """The columns of one file, by whether a task uses them. `note` is what a reader of its figures must know."""

    file: str
    used: tuple[str, ...]
    unused: tuple[str, ...]
    note: str = ""


def columns_read(table: Table, used: Sequence[str], note: str = "") -> ColumnsRead:
    """Of a table from which `used` were read. If an unused column could serve as well, the note says so."""
    taken = tuple(dict.fromkeys(used))
    unused = tuple(column for column in table.columns if column not in taken)
    lines = [_choice(column, unused) for column in taken]
    found = "; ".join([*([note] if note else []), *(line for line in lines if line)])
    return ColumnsRead(Path(table.name).name, taken, unused, found)


def _choice(column: str, unused: Sequence[str]) -> str:
    """Which column was preferred to which."""
    others = [other for other in unused if any({column, other} <= alike for alike in ALIKE)]
    if not others:
        return ""
    return f"column {column} is used; {', '.join(others)} {'is' if len(others) == 1 else 'are'} there too and not used"


def column_notes(read: Sequence[ColumnsRead]) -> list[str]:
    """A line for each file of which more than one column could serve, or of which rows were left out."""
    return [f"Note: {item.file}: {item.note}." for item in dict.fromkeys(read) if item.note]
