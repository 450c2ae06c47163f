"""Queries and documents by id: MS MARCO's files without a header, and the judgements of BEIR and mteb.

what is a corporation?<tab>a passage<tab>another passage            triples.train.small.tsv
400296<tab>1540783<tab>3518497                                      qidpidtriples, beside collection.tsv, queries.tsv
query-id<tab>corpus-id<tab>score                                    qrels/train.tsv, beside corpus.jsonl, queries.jsonl
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial

from dec2vec.files.formats import Row
from dec2vec.files.layouts.beside import Beside
from dec2vec.files.layouts.layout import Layout, Survey, layout
from dec2vec.files.layouts.query import UNKNOWN_ID, BadRowError, MisshapenError, Query, described, id_of
from dec2vec.files.layouts.raw import FIELDS
from dec2vec.files.layouts.tevatron import found_texts


def _fields(row: Row) -> list[str]:
    value = row[FIELDS]
    return list(map(str, value)) if isinstance(value, list) else []


def _are_ids(row: Row) -> bool:
    return len(_fields(row)) == 3 and all(field.isdecimal() for field in _fields(row))


def _are_texts(row: Row) -> bool:
    return not _are_ids(row)


def _texts(row: Row) -> Query:
    anchor, positive, *negatives = _fields(row)
    return Query(anchor, [positive], [text for text in negatives if text.strip()])


def _survey_ids(rows: Iterable[Row], beside: Beside) -> Survey:
    asked: set[str] = set()
    named: set[str] = set()
    for row in rows:
        query, *documents = _id_fields(row)
        asked.add(query)
        named.update(documents)
    queries, documents_by_id = beside.query_texts(asked), beside.documents(named)

    def read(row: Row) -> Query:
        query, *ids = _id_fields(row)
        (anchor,) = found_texts([query], queries)
        positive, negative = found_texts(ids, documents_by_id)
        return Query(anchor, [positive], [negative])

    return Survey(read, (_places(beside),))


def _id_fields(row: Row) -> list[str]:
    if not _are_ids(row):
        raise MisshapenError(f"{described(row[FIELDS])} instead of three ids")
    return _fields(row)


def _survey_grades(columns: tuple[str, str], rows: Iterable[Row], beside: Beside) -> Survey:
    """A judgement of at least `min_grade` makes a pair; the others are counted."""
    asked: set[str] = set()
    named: set[str] = set()
    lower: Counter[str] = Counter()
    for row in rows:
        query, document = _pair(columns, row)
        grade = _grade(row)
        if grade < beside.min_grade:
            lower[f"{grade:g}"] += 1
            continue
        asked.add(query)
        named.add(document)
    queries, documents = beside.query_texts(asked), beside.documents(named)
    below = ", ".join(f"{count:,} of grade {grade}" for grade, count in sorted(lower.items()))
    notes = [f"judgements below data.N.min_grade {beside.min_grade} are not used: {below}"] if below else []
    return Survey(partial(_judgement, columns, beside.min_grade, queries, documents), (_places(beside), *notes))


def _judgement(
    columns: tuple[str, str], min_grade: int, queries: Mapping[str, str], documents: Mapping[str, str], row: Row
) -> Query | None:
    if _grade(row) < min_grade:
        return None
    query, document = _pair(columns, row)
    if query not in queries or document not in documents:
        raise BadRowError(UNKNOWN_ID)
    return Query(queries[query], [documents[document]])


def _pair(columns: tuple[str, str], row: Row) -> tuple[str, str]:
    query, document = (id_of(column, row[column]) for column in columns)
    return query, document


def _grade(row: Row) -> float:
    """The grade, 1 in judgements without one."""
    value = row.get("score", 1)
    try:
        grade = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        grade = math.nan
    if not math.isfinite(grade):
        raise MisshapenError(f"score is {described(value)}, not a grade")
    return grade


def _places(beside: Beside) -> str:
    return f"documents from {beside.place('corpus')}, queries from {beside.place('queries')}"


def _judgements(name: str, query: str, document: str) -> Layout:
    """A file of judgements whose columns of ids are called `query` and `document`."""
    ids = f"{query} {document}"
    survey = partial(_survey_grades, (query, document))
    return layout(name, ids, survey=survey, used=f"{ids} score", options="corpus queries min_grade")


LAYOUTS = (
    layout("MS MARCO (no header)", FIELDS, _texts, fits_values=_are_texts),
    layout("MS MARCO (ids)", FIELDS, survey=_survey_ids, options="corpus queries", fits_values=_are_ids),
    _judgements("BEIR judgement", "query-id", "corpus-id"),
    _judgements("judgement", "query_id", "doc_id"),
)
