"""What a layout is: the columns by which it is recognised, and how a query is read from its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dec2vec.files.cells import is_negative_column
from dec2vec.files.formats import Row
from dec2vec.files.layouts.beside import Beside
from dec2vec.files.layouts.query import Query

ReadRow = Callable[[Row], Query | None]
"""The query of a row; None for a row that the layout does not train on."""


@dataclass(frozen=True)
class Survey:
    """What reading all rows once has shown: how to read each of them, and what to tell the user."""

    read: ReadRow
    notes: tuple[str, ...] = ()


MakeSurvey = Callable[[Iterable[Row], Beside], Survey]
"""Reads all rows before the first is used, for layouts in which a row alone says too little."""


@dataclass(frozen=True)
class Layout:
    """A layout. `name` is plural where a message counts its rows: `FlagEmbedding rows`."""

    name: str
    needs: frozenset[str]
    """Columns that every row has."""
    read: ReadRow | None = None
    """None if a survey is needed."""
    survey: MakeSurvey | None = None
    texts: frozenset[str] = frozenset()
    """Further columns that hold texts, which flat rows have under other names. `negative` stands for all of them."""
    used: frozenset[str] = frozenset()
    """Further columns that decide something, or are only an id, and are kept."""
    scores: frozenset[str] = frozenset()
    """Further columns of scores, which flat rows have as `teacher_scores`."""
    instructions: frozenset[str] = frozenset()
    """Further columns of instructions, which flat rows have as `query_instruction`."""
    options: frozenset[str] = frozenset()
    """Those of `corpus`, `queries` and `min_grade` that its rows need, as they name texts by id."""
    fits_values: Callable[[Row], bool] | None = None
    """Decides between layouts with the same columns by a row's values."""

    def fits(self, row: Row) -> bool:
        """Whether a row has this layout."""
        return self.needs <= row.keys() and (self.fits_values is None or self.fits_values(row))

    def rest(self, row: Row) -> Row:
        """The columns of a row that its flat rows keep. Their `negative_1` ... are those of the query alone."""
        gone = (self.needs - self.used) | self.texts | self.scores | self.instructions
        return {name: value for name, value in row.items() if name not in gone and not is_negative_column(name)}

    def knows(self, column: str) -> bool:
        """Whether a column is part of the layout."""
        name = "negative" if is_negative_column(column) else column
        return name in self.needs or name in self.texts or name in self.used


def layout(
    name: str,
    needs: str,
    read: ReadRow | None = None,
    *,
    texts: str = "",
    used: str = "",
    scores: str = "",
    instructions: str = "",
    options: str = "",
    survey: MakeSurvey | None = None,
    fits_values: Callable[[Row], bool] | None = None,
) -> Layout:
    """A layout whose columns are given as words."""
    columns = (needs, texts, used, scores, instructions, options)
    needed, further, kept, scored, instructed, named = (frozenset(words.split()) for words in columns)
    return Layout(name, needed, read, survey, further, kept, scored, instructed, named, fits_values)
