"""Relevance judgements from a file. Rows that cannot count are left out and told, as other evaluators skip them too."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from dec2vec.errors import UserError
from dec2vec.files.tables import Table

Qrels = dict[str, dict[str, int]]
"""Grade by document by query."""


@dataclass(frozen=True)
class Judgements:
    """The grades that count, and a line for each reason for which rows were left out."""

    grades: Qrels
    judged: frozenset[str]
    """Queries that some row is about."""
    notes: tuple[str, ...]

    def is_answered(self, query: str) -> bool:
        """Whether a document of the corpus is relevant to the query."""
        return any(grade > 0 for grade in self.grades.get(query, {}).values())


def read_judgements(table: Table, queries: Collection[str], corpus: Collection[str], queries_name: str) -> Judgements:
    """Rows with the columns query_id, doc_id and score. UserError for cells that are no id or no whole number.

    Left out are rows about queries or documents that do not exist, grades below 0, and repetitions of a row.
    """
    grades: Qrels = {}
    judged: set[str] = set()
    skipped = _Skipped(table)
    for index in range(len(table)):
        query, document = table.label(index, "query_id"), table.label(index, "doc_id")
        grade, known = _grade(table, index), grades.get(query, {}).get(document)
        if query not in queries:
            skipped.add(f"the query is not in {queries_name}", index, repr(query))
            continue
        judged.add(query)
        if document not in corpus:
            skipped.add("the document is not in the corpus", index, repr(document))
        elif grade < 0:
            skipped.add("the score is below 0", index, str(grade))
        elif known is None:
            grades.setdefault(query, {})[document] = grade
        elif known == grade:
            skipped.add("an earlier row says the same", index, f"{query!r} and {document!r}")
        else:
            pair = f"query {query!r} and document {document!r}"
            raise UserError(f"{table.where(index)}: {pair} have score {grade} here and {known} above; keep one")
    return Judgements(grades, frozenset(judged), skipped.lines())


@dataclass
class _Skipped:
    """How many rows were left out for each reason, and the first of them."""

    table: Table
    found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, reason: str, index: int, value: str) -> None:
        count, first = self.found.get(reason, (0, f"{value} in {self.table.unit} {self.table.numbers[index]}"))
        self.found[reason] = (count + 1, first)

    def lines(self) -> tuple[str, ...]:
        """One for each reason."""
        rows = f"of {len(self.table):,} judgements in {self.table.name}"
        return tuple(
            f"left out {count:,} {rows}: {reason} (first: {first})" for reason, (count, first) in self.found.items()
        )


def _grade(table: Table, index: int) -> int:
    """A whole number, which may be written as 1.0."""
    value = table.rows[index]["score"]
    try:
        number = float("nan") if isinstance(value, bool) or not isinstance(value, (int, float, str)) else float(value)
    except (ValueError, OverflowError):
        number = float("nan")
    if not number.is_integer():
        raise UserError(f"{table.where(index)}: score {value!r} is not a whole number (0 means not relevant)")
    return int(number)
