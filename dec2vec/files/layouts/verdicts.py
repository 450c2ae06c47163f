"""Pairs with a verdict, from which each query gets its right answers and, as hard negatives, its wrong ones.

A row says whether its text answers its query. The wrong answers of a query are known only after all rows, so the rows
are read twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from dec2vec.files.cells import is_absent
from dec2vec.files.formats import Row
from dec2vec.files.layouts.beside import Beside
from dec2vec.files.layouts.layout import Layout, Survey, layout
from dec2vec.files.layouts.query import MisshapenError, Query, described

Verdict = Literal["right", "wrong", "neither"]


@dataclass(frozen=True)
class Judged:
    """A row: a query, a text, hard negatives of its own, and whether the text answers the query."""

    anchor: str
    text: str
    verdict: Verdict
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words:
    """How messages call the rows of each verdict."""

    right: str
    wrong: str
    neither: str


def survey_verdicts(rows: Iterable[Row], judge: Callable[[Row], Judged], words: Words) -> Survey:
    """Right rows become pairs; the wrong texts of the same query are their negatives."""
    wrong: defaultdict[str, dict[str, None]] = defaultdict(dict)
    answered: set[str] = set()
    counts: Counter[Verdict] = Counter()
    for row in rows:
        judged = judge(row)
        counts[judged.verdict] += 1
        if judged.verdict == "wrong":
            wrong[judged.anchor][judged.text] = None
        elif judged.verdict == "right":
            answered.add(judged.anchor)

    def read(row: Row) -> Query | None:
        judged = judge(row)
        if judged.verdict != "right":
            return None
        return Query(
            judged.anchor, [judged.text], list(dict.fromkeys([*judged.negatives, *wrong.get(judged.anchor, {})]))
        )

    lost = sum(len(texts) for anchor, texts in wrong.items() if anchor not in answered)
    without = f"; {lost:,} of queries without a positive not used" if lost else ""
    note = (
        f"{words.right} {counts['right']:,} (positives), {words.wrong} {counts['wrong']:,} (hard negatives{without}), "
        f"{words.neither} {counts['neither']:,} (not used)"
    )
    return Survey(read, (note,))


_LABELS = Words("label 1", "label 0", "no label")


def is_labelled(row: Row) -> bool:
    """Whether a row has a label."""
    return not is_absent(row.get("label"))


def has_verdict(row: Row) -> bool:
    """Whether a row has a label 0 or 1."""
    label = row.get("label")
    return isinstance(label, (bool, int, float, str)) and str(label) in ("0", "1", "0.0", "1.0", "False", "True")


def with_and_without_labels(
    name: str, needs: str, read: Callable[[Row], Query], texts: str, fits_labels: Callable[[Row], bool] = is_labelled
) -> tuple[Layout, Layout]:
    """Two layouts of the same columns, by whether the first row has a label for which `fits_labels` is true."""
    plain = layout(
        name,
        needs,
        partial(_unlabelled, fits_labels, read),
        texts=texts,
        used="id",
        fits_values=lambda row: not fits_labels(row),
    )
    survey = partial(_survey, read)
    labelled = f"{name} with labels"
    return plain, layout(labelled, needs, survey=survey, texts=texts, used="id label", fits_values=fits_labels)


def _unlabelled(fits_labels: Callable[[Row], bool], read: Callable[[Row], Query], row: Row) -> Query:
    if fits_labels(row):
        raise MisshapenError(f"label is {described(row['label'])}, but the first row has no label 0 or 1")
    return read(row)


def _survey(read: Callable[[Row], Query], rows: Iterable[Row], beside: Beside) -> Survey:
    del beside  # all texts are in the rows
    return survey_verdicts(rows, partial(_judge, read), _LABELS)


def _judge(read: Callable[[Row], Query], row: Row) -> Judged:
    query, label = read(row), row.get("label")
    if is_absent(label):
        return Judged(query.anchor, "", "neither")
    if not has_verdict(row):
        raise MisshapenError(
            f"label is {described(label)}, neither 0 nor 1; rows with degrees are for data.N.kind graded, and "
            "a label that is no verdict needs another name"
        )
    if len(query.positives) != 1:
        raise MisshapenError(f"there are {len(query.positives)} texts beside a label, not 1")
    right = str(label) in ("1", "1.0", "True")
    return Judged(query.anchor, query.positives[0], "right" if right else "wrong", tuple(query.negatives))
