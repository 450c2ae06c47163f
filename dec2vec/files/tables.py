"""Read tables of texts from files, saved data sets and the Hub, and check them row by row.

Everything that reads texts uses this module, so that all errors name the row and the fix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.cells import as_name, holds_only_numbers, is_absent, listed, not_text, only_numbers
from dec2vec.files.formats import FORMATS, Numbered, Row, parquet_count, reader_of, text_lines, unit_of
from dec2vec.files.sources import DEFAULT_SPLIT, Named, Readers, must_be_file, open_source, place_of

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
        return place_of(self.name, self.unit, self.numbers[index])

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
        return self._checked(index, column, self.rows[index].get(column), may_be_blank=may_be_blank)

    def _checked(self, index: int, column: str, value: object, *, may_be_blank: bool = False) -> str:
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
        """The row's texts in those of the columns that it fills, in which a cell may be a list of texts.

        Absent, null, NaN and empty cells are skipped, and so are such items of a list.
        """
        row, found = self.rows[index], list[str]()
        for column in columns:
            value = row.get(column)
            items = value if isinstance(value, list) else [value]
            found += [self._checked(index, column, item) for item in items if not (is_absent(item) or item == "")]
        return found

    def one_each(self, column: str) -> Table:
        """The table with a row for each text, where cells of the column are lists of texts."""
        if not any(isinstance(row.get(column), list) for row in self.rows):
            return self
        found: list[Numbered] = []
        for number, row in zip(self.numbers, self.rows, strict=True):
            value = row.get(column)
            items = (value or [None]) if isinstance(value, list) else [value]
            found += [(number, {**row, column: item}) for item in items]
        return Table(self.name, self.unit, [row for _, row in found], [number for number, _ in found])

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
    revision: str | None = None,
) -> Table:
    """Read a file (by its suffix), a folder of files, one written by `datasets.save_to_disk`, a pattern that matches
    files, or a Hub id. The table is never empty.

    A folder may name its split (`folder@test`), a Hub id its subset and split (`nyu-mll/glue:mrpc@validation`).
    Every row has the `columns`. `only` keeps the rows that fulfil one of its conditions `column=value`, and `limit`
    the first of these. `streaming` fetches rows of a Hub data set as they are read, and none after the last; files
    are always read like that.
    """
    return _all_rows(Rows.open(Named(str(path), split, subset, streaming, revision), only, limit), columns)


def read_blocks(
    path: str | Path,
    columns: Sequence[str] = (),
    *,
    split: str = DEFAULT_SPLIT,
    subset: str | None = None,
    only: Sequence[str] = (),
    limit: int | None = None,
    streaming: bool = False,
    revision: str | None = None,
) -> Iterator[Table]:
    """The table of `read_table` in blocks of at most `BLOCK` rows, for files whose rows do not fit into memory."""
    rows = Rows.open(Named(str(path), split, subset, streaming, revision), only, limit)
    return rows.blocks(columns)


def selected(table: Table, columns: Sequence[str], *, only: Sequence[str] = (), limit: int | None = None) -> Table:
    """The rows of a table that `read_table` would have read with these arguments, with the same checks."""
    fits = _fits(only)
    fitting = (numbered for numbered in zip(table.numbers, table.rows, strict=True) if fits(numbered[1]))
    return _all_rows(Rows(table.name, table.unit, only, islice(fitting, limit)), columns)


def read_rows(path: str | Path, columns: Sequence[str]) -> list[Row]:
    """The rows of `read_table` as dictionaries."""
    return read_table(path, columns).rows


def read_texts(path: Path, column: str = "text") -> list[str]:
    """The texts to embed: the lines of a .txt, or a column of a table.

    Blank texts are kept, so that vector i belongs to line i.
    """
    if path.suffix == ".txt":
        must_be_file(path)
        texts = [line for _, line in text_lines(path)]
        if not texts:
            raise UserError(f"{path} is empty: it has no lines")
        return texts
    table = read_table(path, [column])
    return [table.text(index, column, may_be_blank=True) for index in range(len(table))]


@dataclass(frozen=True)
class Rows:
    """The part of a table that has not been read yet, of the rows with one of the conditions `only`."""

    name: str
    unit: str
    only: Sequence[str]
    numbered: Iterator[Numbered]

    @classmethod
    def open(cls, named: Named, only: Sequence[str] = (), limit: int | None = None, readers: Readers = None) -> Rows:
        """The rows of a source that fulfil a condition, at most `limit`; `readers` as in `open_source`."""
        fits = _fits(only)
        name, unit, numbered = open_source(named, readers)
        return cls(name, unit, only, islice(((number, row) for number, row in numbered if fits(row)), limit))

    def block(self, size: int | None) -> Table:
        """The next rows; all that are left if `size` is None."""
        kept = list(islice(self.numbered, size))
        return Table(self.name, self.unit, [row for _, row in kept], [number for number, _ in kept])

    def blocks(self, columns: Sequence[str] = ()) -> Iterator[Table]:
        """The rows in blocks. UserError if there is none, or if a row lacks one of the columns."""
        table = self.block(BLOCK)
        if not table.rows:
            raise self.empty()
        table.require(columns)
        while table.rows:
            table.require_in_rows(columns)
            yield table
            table = self.block(BLOCK)

    def empty(self) -> UserError:
        """The error for a table without rows."""
        reason = f"no row has {' or '.join(self.only)}; change `only`" if self.only else "it has no rows"
        return UserError(f"{self.name} is empty: {reason}")


def _all_rows(rows: Rows, columns: Sequence[str]) -> Table:
    table = rows.block(None)
    if not table.rows:
        raise rows.empty()
    table.require(columns)
    return table


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
    while block := list(islice(rows, size)):
        yield Table(str(path), unit_of(path), [row for _, row in block], [number for number, _ in block])


def count_rows(path: Path) -> int:
    """The number of rows in the file; UserError if it has none."""
    rows = _rows(path)
    count = parquet_count(path) if path.suffix.lower() == ".parquet" else sum(1 for _ in rows)
    if not count:
        raise UserError(f"{path} is empty: it has no rows")
    return count


def block_texts(path: Path, table: Table, column: str) -> list[str]:
    """The texts of a block. Blank ones are kept, as in `read_texts`."""
    name = "text" if path.suffix.lower() == ".txt" else column
    table.require([name])
    return [table.text(index, name, may_be_blank=True) for index in range(len(table))]


def _rows(path: Path) -> Iterator[Numbered]:
    reader = reader_of(path)
    if path.suffix.lower() != ".txt" and reader is None:
        formats = ", ".join((".txt", *FORMATS))
        raise UserError(f"{path}: a file that is read in blocks must be one of {formats}")
    if not path.is_file():
        raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}")
    if reader is None:
        return ((number, {"text": line}) for number, line in text_lines(path))
    return reader(path)
