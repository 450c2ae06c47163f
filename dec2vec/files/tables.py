"""Tables of texts: jsonl, csv, tsv, parquet, saved data sets and the Hub, read once and checked row by row.

Training pairs, similarity files and `dec2vec encode` share this and its errors: each names the row and fix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.formats import FORMATS, Numbered, Row, text_lines
from dec2vec.files.hub_datasets import HUB_ID, hub_rows, saved_rows

DEFAULT_SPLIT = "train"
_PARTS = re.compile(r"(?P<name>[^:@]+)(:(?P<subset>[\w.-]+))?(@(?P<split>[\w.\[\]:%+-]+))?")
BLOCK = 8192
"""Rows in memory at a time, where a table is read in blocks."""


@dataclass(frozen=True)
class Table:
    """Rows with their places, for errors that can be found again in an editor."""

    name: str
    unit: str
    rows: list[Row]
    numbers: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> list[str]:
        """Every column that some row has, in order of appearance."""
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def where(self, index: int) -> str:
        """`pairs.jsonl line 3`."""
        return f"{self.name} {self.unit} {self.numbers[index]}"

    def require(self, columns: Sequence[str]) -> None:
        """Refuse a table without these columns, listing those it has."""
        present = self.columns
        for column in columns:
            if column not in present:
                raise UserError(f"{self.name}: no column {column!r}; the columns are: {', '.join(present)}")
        self.require_in_rows(columns)

    def require_in_rows(self, columns: Sequence[str]) -> None:
        """Refuse the first row without one of these."""
        for column in columns:
            missing = next((i for i, row in enumerate(self.rows) if column not in row), None)
            if missing is not None:
                here = ", ".join(self.rows[missing]) or "nothing"
                raise UserError(f"{self.where(missing)}: no {column!r}; this row has: {here}")

    def text(self, index: int, column: str, *, may_be_blank: bool = False) -> str:
        """The text in a cell; null and numbers are refused, and so are blank texts unless they may be."""
        value = self.rows[index].get(column)
        if value is None:
            raise UserError(f"{self.where(index)}: {column} is null; fill it or remove the row")
        if not isinstance(value, str):
            kind = "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}"
            raise UserError(f"{self.where(index)}: {column} is {kind} ({str(value)[:40]}), not text; put it in quotes")
        if not (may_be_blank or value.strip()):
            raise UserError(f"{self.where(index)}: {column} is blank; fill it or remove the row")
        return value

    def texts(self, column: str) -> list[str]:
        """A whole column of texts; one that holds numbers only is surely the wrong column."""
        found = [self.text(index, column) for index in range(len(self))]
        self.refuse_numbers(column, found)
        return found

    def filled(self, index: int, columns: Sequence[str]) -> list[str]:
        """The row's texts in those of the columns that it fills: absent, null and empty cells are skipped."""
        return [self.text(index, column) for column in columns if self.rows[index].get(column) not in (None, "")]

    def refuse_numbers(self, column: str, texts: Sequence[str]) -> None:
        """Refuse a column of which all `texts` are numbers."""
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
    """A file (by its suffix), a folder of `datasets.save_to_disk`, or a Hub id; never empty.

    A folder may name its split (`folder@test`), a Hub id its subset and split (`nyu-mll/glue:mrpc@validation`).
    Every row has `columns`. `only` keeps rows with one of these `column=value`, `limit` the first rows of those.
    `streaming` fetches the rows of a Hub data set as they are read, and none behind the last; files are read so anyway.
    """
    return _whole(_Rows.open(str(path), split, subset, only, limit, streaming), columns)


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
    """The table of `read_table`, at most `BLOCK` rows at a time: for files that are too large to hold as rows."""
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
    """The part of a whole table that `read_table` would have read, under the same checks."""
    fits = _fits(only)
    fitting = (numbered for numbered in zip(table.numbers, table.rows, strict=True) if fits(numbered[1]))
    return _whole(_Rows(table.name, table.unit, only, islice(fitting, limit)), columns)


def read_rows(path: str | Path, columns: Sequence[str]) -> list[Row]:
    """The rows of `read_table`."""
    return read_table(path, columns).rows


def read_texts(path: Path, column: str = "text") -> list[str]:
    """Texts to embed: the lines of a .txt, or a column of a table.

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


_NEGATIVE = re.compile(r"negative(?:_(\d+))?")


def is_negative_column(name: str) -> bool:
    """Whether a column holds hard negatives by its name: `negative`, `negative_1`, `negative_2` ..."""
    return _NEGATIVE.fullmatch(name) is not None


def negative_columns(columns: Iterable[str]) -> list[str]:
    """Those of the columns that hold hard negatives, in the order of their numbers."""
    matches = [match for match in map(_NEGATIVE.fullmatch, columns) if match]
    return [match.group() for match in sorted(matches, key=lambda match: int(match.group(1) or -1))]


def only_numbers(texts: Sequence[str]) -> bool:
    """Whether there are texts, and all are numbers."""
    return bool(texts) and all(map(_is_number, texts))


def holds_only_numbers(name: str, column: str) -> UserError:
    """What to say of such a column."""
    return UserError(f"{name}: column {column!r} holds only numbers; name a column of texts")


def _is_number(value: str | int | float) -> bool:
    try:
        return math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


@dataclass(frozen=True)
class _Rows:
    """What is still to be read of a table."""

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
        """The next rows, all of them where `size` is None."""
        kept = list(islice(self.numbered, size))
        return Table(self.name, self.unit, [row for _, row in kept], [number for number, _ in kept])

    def empty(self) -> UserError:
        """What to say where there is no row at all."""
        reason = f"no row has {' or '.join(self.only)}; mend `only`" if self.only else "it has no rows"
        return UserError(f"{self.name} is empty: {reason}")


def _whole(rows: _Rows, columns: Sequence[str]) -> Table:
    table = rows.block(None)
    if not table.rows:
        raise rows.empty()
    table.require(columns)
    return table


def _open(source: str, split: str, subset: str | None, streaming: bool) -> tuple[str, str, Iterator[Numbered]]:
    """Its name, what it calls a row, and the rows."""
    if not source:
        raise UserError("no data file named; give a path or a Hub id")
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


def is_hub_id(source: str) -> bool:
    """Whether `source` is owner/name, perhaps with `:subset` and `@split`, and no folder `owner` is here."""
    parts = _PARTS.fullmatch(source)
    if parts is None or "/" not in parts["name"] or Path(parts["name"]).parent.exists():
        return False
    return HUB_ID.fullmatch(parts["name"]) is not None


def _with_parts(source: str, split: str, subset: str | None) -> tuple[str, str, str | None]:
    """Split and subset that `source` itself names take the place of the defaults."""
    parts = _PARTS.fullmatch(source)
    if parts is None or Path(source).exists() or not (parts["split"] or parts["subset"]):
        return source, split, subset
    if not (Path(parts["name"]).is_dir() or is_hub_id(source)):
        return source, split, subset
    if (parts["split"] and split != DEFAULT_SPLIT) or (parts["subset"] and subset is not None):
        raise UserError(f"{source}: split or subset is named here and as an option of its own; keep one of them")
    return parts["name"], parts["split"] or split, parts["subset"] or subset


def _must_be_file(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.is_file():
        raise UserError(f"{path} is not a file")


def _fits(only: Sequence[str]) -> Callable[[Row], bool]:
    """Whether a row is wanted."""
    conditions = [_condition(text) for text in only]
    return lambda row: (
        not conditions or any(column in row and str(row[column]) == value for column, value in conditions)
    )


def _condition(text: str) -> tuple[str, str]:
    column, sign, value = text.partition("=")
    if not (column and sign):
        raise UserError(f"only {text!r}: not of the form column=value, such as source=mrpc")
    return column, value


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
