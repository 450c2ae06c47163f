"""Rows of sentence-transformers: texts by their position, sets of equal meaning, and pairs under other names.

    ["anchor", "positive", "negative", ...]
    {"set": ["...", "...", "..."]}
    {"query": "...", "answer": "...", "negative_1": "..."}
    {"question": "...", "answer": "...", "label": 0}                      WikiQA: 1 for a right answer
    sent0,sent1,hard_neg                                                  SimCSE's csv

Rows of `anchor`, `positive` and `negative` need no layout: their columns have the names that are read anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import chain, islice

from dec2vec.files.cells import negative_columns
from dec2vec.files.formats import Row
from dec2vec.files.layouts.beside import Beside
from dec2vec.files.layouts.layout import Layout, Survey, layout
from dec2vec.files.layouts.query import MisshapenError, Query, described, text_in, text_of, texts_in
from dec2vec.files.layouts.raw import LINE
from dec2vec.files.layouts.verdicts import has_verdict, with_and_without_labels


def _survey_lines(rows: Iterable[Row], beside: Beside) -> Survey:
    """Lists are read by position, so all of them are as long as the first."""
    del beside  # all texts are in the rows
    first = next((row[LINE] for row in islice(rows, 1)), None)
    width = len(first) if isinstance(first, list) else 0
    if width < 2:
        raise MisshapenError(f"{described(first)} has no second text")

    def read(row: Row) -> Query:
        line = row[LINE]
        if not isinstance(line, list) or len(line) != width:
            raise MisshapenError(
                f"a list of {len(line) if isinstance(line, list) else 0} texts, but the first has {width}"
            )
        anchor, positive, *negatives = (text_of(f"text {place}", item) for place, item in enumerate(line, start=1))
        return Query(anchor, [positive], [text for text in negatives if text])

    return Survey(read)


def _set(row: Row) -> Query:
    """All texts of a set mean the same: the first with each of the others."""
    texts = texts_in(row, "set")
    if len(texts) < 2:
        return Query("", [])
    return Query(texts[0], texts[1:])


def _columns(anchor: str, positive: str, negatives: tuple[str, ...], row: Row) -> Query:
    columns = negatives or negative_columns(row)
    found = chain.from_iterable(texts_in(row, column) for column in columns)
    return Query(text_in(row, anchor), texts_in(row, positive), list(found))


def _named(anchor: str, positive: str) -> tuple[Layout, Layout]:
    """With a label 0 or 1, a row of label 0 has a wrong answer."""
    read = partial(_columns, anchor, positive, ())
    name = f"{anchor} and {positive}"
    return with_and_without_labels(name, f"{anchor} {positive}", read, "negative", has_verdict)


LAYOUTS = (
    layout("sentence-transformers list", LINE, survey=_survey_lines),
    layout("sentence-transformers set", "set", _set),
    *_named("query", "positive"),
    *_named("query", "answer"),
    *_named("question", "positive"),
    *_named("question", "answer"),
    layout("SimCSE", "sent0 sent1", partial(_columns, "sent0", "sent1", ("hard_neg",)), texts="hard_neg", used="id"),
)
OWN_WITH_LABELS = _named("anchor", "positive")[1]
"""Without labels such rows need no layout."""
