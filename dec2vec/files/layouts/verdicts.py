"""Pairs with a verdict, from which each query gets its right answers and, as hard negatives, its wrong ones.

A row says whether its text answers its query. The wrong answers of a query are known only after all rows, so the rows
are read twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from dec2vec.files.formats import Row
from dec2vec.files.layouts.layout import Survey
from dec2vec.files.layouts.query import Query

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
