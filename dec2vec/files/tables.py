"""Read tables of texts from jsonl, csv, tsv, parquet, saved data sets and the Hub, and check them row by row.

Everything that reads texts uses this module, so that all errors name the row and the fix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.cells import as_name, holds_only_numbers, is_absent, listed, not_text, only_numbers
from dec2vec.files.formats import FORMATS, Numbered, Row, text_lines
from dec2vec.files.hub_datasets import HUB_ID, hub_rows, saved_rows

DEFAULT_SPLIT = "train"
_PARTS = re.compile(r"(?P<name>[^:@]+)(:(?P<subset>[\w.-]+))?(@(?P<split>[\w.\[\]:%+-]+))?")
BLOCK = 8192
"""Number of rows in memory at a time, if a table is read in blocks."""


@dataclass(frozen=True)
class Table:
    """Rows with their numbers in the file, so that an error can say where to look."""

    name: str
    unit: str
    rows: list[Row]
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> list[str]:
        """All columns that occur in the rows, in order of appearance."""
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def where(self, index: int) -> str:
        """Where a row is in the file, such as `pairs.jsonl line 3`."""
        return f"{self.name} {self.unit} {self.numbers[index]}"

    def require(self, columns: Sequence[str]) -> None:
        """Raise UserError if the table, or one of its rows, lacks one of the columns."""
        present = self.columns
        for column in columns:
            if column not in present:
                raise UserError(f"{self.name}: no column {column!r}; the columns are: {listed(present)}")
        self.require_in_rows(columns)

    def require_in_rows(self, columns: Sequence[str]) -> None:
        """Raise UserError for the first row that lacks one of the columns."""
        for column in columns:
            missing = next((i for i, row in enumerate(self.rows) if column not in row), None)
            if missing is not None:
                here = listed(self.rows[missing]) or "nothing"
                raise UserError(f"{self.where(missing)}: no {column!r}; this row has: {here}")

    def text(self, index: int, column: str, *, may_be_blank: bool = False) -> str:
        """The text in a cell. UserError for null and NaN, for numbers, and for blank texts unless they are allowed."""
        value = self.rows[index].get(column)
        if is_absent(value):
            kind = "null" if value is None else "NaN"
            raise UserError(f"{self.where(index)}: {column} is {kind}; fill it or remove the row")
        if not isinstance(value, str):
            in_json = self.unit == "line"
            raise UserError(f"{self.where(index)}: {not_text(column, value, in_json=in_json)}")
        if not (may_be_blank or value.strip()):
            raise UserError(f"{self.where(index)}: {column} is blank; fill it or remove the row")
        return value

    def texts(self, column: str) -> list[str]:
        """All texts of a column. UserError if they are all numbers: the column is the wrong one."""
        texts = [self.text(index, column) for index in range(len(self))]
        self.refuse_numbers(column, texts)
        return texts

    def filled(self, index: int, columns: Sequence[str]) -> list[str]:
        """The row's texts in those of the columns that it fills: absent, null, NaN and empty cells are skipped."""
        cells = ((column, self.rows[index].get(column)) for column in columns)
        return [self.text(index, column) for column, value in cells if not (is_absent(value) or value == "")]

    def label(self, index: int, column: str) -> str:
        """The name of a class or of a document in a cell: text, a whole number, or true and false."""
        value = self.rows[index][column]
        name = self.text(index, column) if is_absent(value) or isinstance(value, str) else as_name(value)
        if name is None:
            where = self.where(index)
            raise UserError(f"{where}: {column} is {value!r}; use text or a whole number, or remove the row")
        return name

    def refuse_numbers(self, column: str, texts: Sequence[str]) -> None:
        """Raise UserError if all texts of the column are numbers."""
        if only_numbers(texts):
            raise holds_only_numbers(self.name, column)


def read_table(
    path: str | Path,
    columns: Sequence[str] = (),
    *,
    split: str = DEFAULT_SPLIT,
    subset: str | None = None,
    only: Sequence[str] = (),
    limit: int | None = None,
    streaming: bool = False,
) -> Table:
    """Read a file (by its suffix), a folder written by `datasets.save_to_disk`, or a Hub id. It is never empty.

    A folder may name its split (`folder@test`), a Hub id its subset and split (`nyu-mll/glue:mrpc@validation`).
    Every row has the `columns`. `only` keeps the rows that fulfil one of its conditions `column=value`, and `limit`
    the first of these. `streaming` fetches rows of a Hub data set as they are read, and none after the last; files
    are always read like that.
    """
    return _all_rows(_Rows.open(str(path), split, subset, only, limit, streaming), columns)


def read_blocks(
    path: str | Path,
    columns: Sequence[str] = (),
    *,
    split: str = DEFAULT_SPLIT,
    subset: str | None = None,
    only: Sequence[str] = (),
    limit: int | None = None,
    streaming: bool = False,
) -> Iterator[Table]:
    """The table of `read_table` in blocks of at most `BLOCK` rows, for files whose rows do not fit into memory."""
    rows = _Rows.open(str(path), split, subset, only, limit, streaming)
    table = rows.block(BLOCK)
    if not table.rows:
        raise rows.empty()
    table.require(columns)
    while table.rows:
        table.require_in_rows(columns)
        yield table
        table = rows.block(BLOCK)


def selected(table: Table, columns: Sequence[str], *, only: Sequence[str] = (), limit: int | None = None) -> Table:
    """The rows of a table that `read_table` would have read with these arguments, with the same checks."""
    fits = _fits(only)
    fitting = (numbered for numbered in zip(table.numbers, table.rows, strict=True) if fits(numbered[1]))
    return _all_rows(_Rows(table.name, table.unit, only, islice(fitting, limit)), columns)


def read_rows(path: str | Path, columns: Sequence[str]) -> list[Row]:
    """The rows of `read_table` as dictionaries."""
    return read_table(path, columns).rows


def read_texts(path: Path, column: str = "text") -> list[str]:
    """The texts to embed: the lines of a .txt, or a column of a table.

    Blank texts are kept, so that vector i belongs to line i.
    """
    if path.suffix == ".txt":
        _must_be_file(path)
        texts = [line for _, line in text_lines(path)]
        if not texts:
            raise UserError(f"{path} is empty: it has no lines")
        return texts
    table = read_table(path, [column])
    return [table.text(index, column, may_be_blank=True) for index in range(len(table))]


@dataclass(frozen=True)
class _Rows:
    """The part of a table that has not been read yet."""

    name: str
    unit: str
    only: Sequence[str]
    numbered: Iterator[Numbered]

    @classmethod
    def open(
        cls,
        source: str,
        split: str,
        subset: str | None,
        only: Sequence[str],
        limit: int | None,
        streaming: bool = False,
    ) -> _Rows:
        fits = _fits(only)
        name, unit, numbered = _open(source, split, subset, streaming)
        return cls(name, unit, only, islice(((number, row) for number, row in numbered if fits(row)), limit))

    def block(self, size: int | None) -> Table:
        """The next rows; all that are left if `size` is None."""
        kept = list(islice(self.numbered, size))
        return Table(self.name, self.unit, [row for _, row in kept], [number for number, _ in kept])

    def empty(self) -> UserError:
        """The error for a table without rows."""
        reason = f"no row has {' or '.join(self.only)}; change `only`" if self.only else "it has no rows"
        return UserError(f"{self.name} is empty: {reason}")


def _all_rows(rows: _Rows, columns: Sequence[str]) -> Table:
    table = rows.block(None)
    if not table.rows:
        raise rows.empty()
    table.require(columns)
    return table


def _open(source: str, split: str, subset: str | None, streaming: bool) -> tuple[str, str, Iterator[Numbered]]:
    """The name of a table, what its rows are called, and the rows."""
    if not source:
        raise UserError("no data file is given; give a path or a Hub id")
    source, split, subset = _with_parts(source, split, subset)
    path = Path(source)
    if path.is_dir():
        return source, "row", saved_rows(path, split)
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        _must_be_file(path)
        return source, "line" if suffix == ".jsonl" else "row", FORMATS[suffix](path)
    if path.exists():
        raise UserError(f"{source}: unknown format {suffix or 'without a suffix'}; use {', '.join(FORMATS)}")
    if is_hub_id(source):
        name = f"{source} [{split}]" if subset is None else f"{source} [{subset}, {split}]"
        return name, "row", hub_rows(source, split, subset, streaming)
    raise UserError(f"{source} does not exist (a Hub id is owner/name)")


def hub_parts(source: str) -> dict[str, str | None] | None:
    """`name`, `subset` and `split` of a Hub id; None for anything else."""
    parts = _PARTS.fullmatch(source)
    if parts is None or "/" not in parts["name"] or Path(parts["name"]).parent.exists():
        return None
    return parts.groupdict() if HUB_ID.fullmatch(parts["name"]) else None


def is_hub_id(source: str) -> bool:
    """Whether `source` is owner/name, perhaps with `:subset` and `@split`, and no folder `owner` is here."""
    return hub_parts(source) is not None


def _with_parts(source: str, split: str, subset: str | None) -> tuple[str, str, str | None]:
    """Split the name of the source from the subset and split that it may contain."""
    parts = _PARTS.fullmatch(source)
    if parts is None or Path(source).exists() or not (parts["split"] or parts["subset"]):
        return source, split, subset
    if not (Path(parts["name"]).is_dir() or is_hub_id(source)):
        return source, split, subset
    if (parts["split"] and split != DEFAULT_SPLIT) or (parts["subset"] and subset is not None):
        raise UserError(f"{source}: split or subset is given both here and as an option; keep one of them")
    return parts["name"], parts["split"] or split, parts["subset"] or subset


def _must_be_file(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.is_file():
        raise UserError(f"{path} is not a file")


def _fits(only: Sequence[str]) -> Callable[[Row], bool]:
    """A function that says whether a row fulfils one of the conditions; every row does if there is none."""
    conditions = [_condition(text) for text in only]
    return lambda row: (
        not conditions
        or any(column in row and value in (str(row[column]), as_name(row[column])) for column, value in conditions)
    )


def _condition(text: str) -> tuple[str, str]:
    column, sign, value = text.partition("=")
    if not (column and sign):
        raise UserError(f"only {text!r}: write column=value, such as source=mrpc")
    return column, value


def iter_tables(path: Path, size: int) -> Iterator[Table]:
    """The rows of a file in tables of `size` rows. The lines of a .txt are in the column `text`.

    UserError for a file that is missing or of an unknown format, and for damage when it is reached.
    """
    rows = _rows(path)
    unit = "line" if path.suffix.lower() in (".txt", ".jsonl") else "row"
    while block := list(islice(rows, size)):
        yield Table(str(path), unit, [row for _, row in block], [number for number, _ in block])


def count_rows(path: Path) -> int:
    """The number of rows in the file; UserError if it has none."""
    count = sum(1 for _ in _rows(path))
    if not count:
        raise UserError(f"{path} is empty: it has no rows")
    return count


def block_texts(path: Path, table: Table, column: str) -> list[str]:
    """The texts of a block. Blank ones are kept, as in `read_texts`."""
    name = "text" if path.suffix.lower() == ".txt" else column
    table.require([name])
    return [table.text(index, name, may_be_blank=True) for index in range(len(table))]


def _rows(path: Path) -> Iterator[Numbered]:
    suffix = path.suffix.lower()
    if suffix != ".txt" and suffix not in FORMATS:
        formats = ", ".join((".txt", *FORMATS))
        raise UserError(f"{path}: a file that is read in blocks must be one of {formats}")
    if not path.is_file():
        raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    if suffix == ".txt":
        return ((number, {"text": line}) for number, line in text_lines(path))
    return FORMATS[suffix](path)
