"""A query with its positives and negatives, as a row of any layout states it, and the flat rows that are made of it.

A row can be wrong in two ways. Its shape may not be that of the layout (a number where the texts are): the file is
refused, because the rest can't be trusted either. Or it has the shape but nothing can be learned from it (no positive):
such rows are counted by kind and left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dec2vec.files.cells import SHOWN, as_name, is_absent
from dec2vec.files.formats import Row

EMPTY = "with an empty query or positive"
AMONG_NEGATIVES = "with a positive among its own negatives"
OTHER_LENGTH = "with scores of another length than the texts"
UNKNOWN_ID = "with an id that is not in the corpus or the queries"


QUERY_INSTRUCTION, DOCUMENT_INSTRUCTION = "query_instruction", "document_instruction"
"""Columns of a flat row: what its query, or its documents, are to be embedded for."""
TEACHER_SCORES = "teacher_scores"
"""Column of a flat row: a reranker's scores of its positive and its negatives, null where there is none."""
SCORES, LABELS = (TEACHER_SCORES, "scores", "score"), ("labels", "label")
"""Columns of such scores. Labels are scores in rows of `anchor` and `positive` only, as in sentence-transformers."""


class MisshapenError(Exception):
    """What was found instead of what the layout has there."""


class BadRowError(Exception):
    """The kind of a row's fault."""


@dataclass(frozen=True)
class Query:
    """A query, each positive a right answer to it, and hard negatives; scores beside the texts where there are any."""

    anchor: str
    positives: Sequence[str]
    negatives: Sequence[str] = ()
    positive_scores: Sequence[float] = ()
    negative_scores: Sequence[float] = ()
    extra: Row = field(default_factory=dict)
    """Further columns of its flat rows."""

    def check(self) -> None:
        """Raise BadRowError if nothing can be learned from the row."""
        if not (self.anchor.strip() and self.positives and all(text.strip() for text in self.positives)):
            raise BadRowError(EMPTY)
        if not set(self.positives).isdisjoint(self.negatives):
            raise BadRowError(AMONG_NEGATIVES)
        for texts, scores in ((self.positives, self.positive_scores), (self.negatives, self.negative_scores)):
            if scores and len(scores) != len(texts):
                raise BadRowError(OTHER_LENGTH)

    def rows(self, rest: Row) -> Iterator[Row]:
        """A flat row for each positive: `anchor`, `positive`, `negative_1` ..., and the `rest` of the columns.

        Scores of the texts, if there are any, are in `teacher_scores`.
        """
        negatives = {f"negative_{number}": text for number, text in enumerate(self.negatives, start=1)}
        for place, positive in enumerate(self.positives):
            row: Row = {**rest, **self.extra, "anchor": self.anchor, "positive": positive, **negatives}
            if self.positive_scores or self.negative_scores:
                own = self.positive_scores[place] if self.positive_scores else None
                others: Sequence[float | None] = self.negative_scores or [None] * len(self.negatives)
                row[TEACHER_SCORES] = [own, *others]
            yield row


def text_in(row: Row, column: str) -> str:
    """A text, empty if the cell is null. MisshapenError for anything else."""
    return text_of(column, row.get(column))


def text_of(name: str, value: object) -> str:
    """A text, empty for null. MisshapenError for anything else; `name` says what it should have been."""
    if is_absent(value):
        return ""
    if isinstance(value, str):
        return value
    raise MisshapenError(f"{name} is {described(value)}, not a text")


def texts_in(row: Row, column: str) -> list[str]:
    """A list of texts, or one text as a list. Null and empty texts are left out; MisshapenError for anything else."""
    return texts_of(column, row.get(column))


def texts_of(name: str, value: object) -> list[str]:
    """`texts_in` of a value."""
    if is_absent(value) or value == "":
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise MisshapenError(f"{name} is {described(value)}, not a list of texts")
    found = [text_of(f"item {place} of {name}", item) for place, item in enumerate(value, start=1)]
    return [text for text in found if text]


def scores_in(row: Row, column: str) -> list[float]:
    """A list of numbers, or one number as a list; nothing for null. MisshapenError for anything else."""
    value = row.get(column)
    if is_absent(value):
        return []
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item) for item in items):
        raise MisshapenError(f"{column} is {described(value)}, not a list of numbers")
    return [float(item) for item in items if isinstance(item, (int, float))]


def id_of(name: str, value: object) -> str:
    """The id of a query or document. MisshapenError for what cannot be one."""
    found = as_name(value)
    if found is None:
        raise MisshapenError(f"{name} is {described(value)}, not an id")
    return found


def described(value: object) -> str:
    """What a cell holds, in a few words."""
    kinds = {
        dict: "an object",
        list: "a list",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
    }
    kind = kinds.get(type(value), f"a {type(value).__name__}")
    return "null" if value is None else f"{kind} ({str(value)[:SHOWN]})"
