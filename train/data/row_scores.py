"""A reranker's scores in the rows of a source: in which columns they are, and whether they are margins.

The scores of a row are one for its positive and one for each negative, null where there is none. Margins are one
shorter (a single number beside a single negative): by how much the positive is ahead of each negative. Both are decided
once for a source, by the majority of its rows, because a list that lacks one score would otherwise be read as margins.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dec2vec.errors import UserError
from dec2vec.files.cells import is_absent, is_number, negative_columns
from dec2vec.files.layouts.query import LABELS, OTHER_LENGTH, SCORES, TEACHER_SCORES
from dec2vec.files.tables import Table

NO_SCORE = math.nan
Scores = tuple[float, ...]


@dataclass(frozen=True)
class ScoreColumns:
    """How the scores of a source are read."""

    columns: tuple[str, ...]
    """The first of them that a row has holds its scores."""
    negatives: tuple[str, ...]
    """The columns of negatives of all rows."""
    are_margins: bool

    @classmethod
    def of_tables(
        cls, tables: Iterable[Table], named: Sequence[str] | None = None, *, own: bool = True
    ) -> ScoreColumns:
        """Those of a source. `named` are its columns of negatives where it names them; `own` rows have labels too."""
        columns = (*SCORES, *(LABELS if own else ()))
        seen: dict[str, None] = {}
        found: Counter[tuple[bool, int, int]] = Counter()
        for table in tables:
            seen |= dict.fromkeys(table.columns)
            negatives = negative_columns(table.columns) if named is None else named
            for row in range(len(table)):
                column, count = _column(table, row, columns), len(table.filled(row, negatives))
                values = None if column is None else _values(table, row, column, count)
                if values is not None and count:
                    found[column == TEACHER_SCORES, len(values), count] += 1
        has_ours = TEACHER_SCORES in seen
        width = len(negative_columns(seen) if named is None else named)
        votes = [0, 0]
        for (ours, length, count), rows in found.items():
            for are_margins in (False, True) if ours or not has_ours else ():
                votes[are_margins] += rows * (length + are_margins in (1 + count, 1 + width))
        chosen = (TEACHER_SCORES,) if has_ours else columns
        return cls(chosen, tuple(negative_columns(seen) if named is None else named), votes[True] > votes[False])

    def read(self, table: Table, row: int) -> Scores | None:
        """The scores of a row's positive and negatives, of which margins make 0 and less; None for another length."""
        count = len(table.filled(row, self.negatives))
        column = self.column(table, row)
        values = None if column is None else _values(table, row, column, count)
        if column is None or values is None:
            return (NO_SCORE,) * (1 + count)
        numbers = [_number(table, row, column, item) for item in values]
        if self.are_margins:
            numbers = [0.0, *(-number for number in numbers)]
        if len(numbers) == 1 + len(self.negatives) and len(self.negatives) > count:
            cells = [table.rows[row].get(name) for name in self.negatives]  # a score for each, also for an empty one
            kept = [number for number, cell in zip(numbers[1:], cells, strict=True) if not _is_empty(cell)]
            numbers = [numbers[0], *kept]
        return tuple(numbers) if len(numbers) == 1 + count else None

    def column(self, table: Table, row: int) -> str | None:
        """The column of a row's scores; None if it has none."""
        return _column(table, row, self.columns)

    def cell(self, table: Table, row: int) -> str:
        """The column and the value of a row's scores."""
        column = self.column(table, row)
        return f"{column} {table.rows[row].get(column or '')}"

    def described(self, table: Table, row: int) -> str:
        """What a row has that `read` finds to be of another length."""
        column = self.column(table, row)
        values = _values(table, row, column, 1) if column else None
        count, what = len(table.filled(row, self.negatives)), "margins" if self.are_margins else "scores"
        wanted = count + (not self.are_margins)
        return f"{table.where(row)}: {column} has {len(values or ())} numbers in place of {wanted} {what}"


@dataclass
class ScoreReader:
    """Reads the scores of a source block by block, and notes the rows with scores of another length."""

    layout: ScoreColumns
    rows: int = 0
    faulty: int = 0
    first: str = field(default="", init=False)

    def read(self, table: Table, rows: Sequence[int]) -> list[Scores | None]:
        """The scores of these rows of a table; None where a row is to be left out."""
        found = [self.layout.read(table, row) for row in rows]
        wrong = [row for row, scores in zip(rows, found, strict=True) if scores is None]
        if wrong and not self.first:
            self.first = self.layout.described(table, wrong[0])
        self.rows += len(found)
        self.faulty += len(wrong)
        return found

    def told(self, name: str, allowed: float) -> list[str]:
        """A line about rows that are left out. UserError for more of them than this fraction."""
        if not self.faulty:
            return []
        line = f"{self.faulty:,} of {self.rows:,} rows: {self.faulty:,} {OTHER_LENGTH} (first: {self.first})"
        if self.faulty > allowed * self.rows:
            raise UserError(
                f"{name}: {line}, more than data.N.bad_rows {allowed:g} allows; mend or remove them, or write null"
            )
        return [f"left out {line}"]


def _column(table: Table, row: int, columns: Sequence[str]) -> str | None:
    return next((name for name in columns if not is_absent(table.rows[row].get(name))), None)


def _values(table: Table, row: int, column: str, negatives: int) -> list[object] | None:
    """A list of scores. None for a number beside several negatives, or a word, which are about something else."""
    value = table.rows[row][column]
    if isinstance(value, list):
        return value
    return [value] if column == TEACHER_SCORES or (negatives == 1 and is_number(str(value))) else None


def _is_empty(cell: object) -> bool:
    return is_absent(cell) or cell == ""


def _number(table: Table, row: int, column: str, value: object) -> float:
    if is_absent(value):
        return NO_SCORE
    if isinstance(value, bool) or not is_number(str(value)):
        raise UserError(
            f"{table.where(row)}: {column} has {str(value)[:40]!r} in place of a number; mend it or use null"
        )
    return float(str(value))
