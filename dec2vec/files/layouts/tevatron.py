"""Tevatron's rows: passages with a title in the row (version 1), or their ids beside a corpus (version 2).

{"query_id": "1", "query": "...", "positive_passages": [{"docid": "7", "title": "...", "text": "..."}],
 "negative_passages": [...]}
{"query_id": "1", "query_text": "...", "query_image": null, "positive_document_ids": ["7"],
 "negative_document_ids": ["8", "9"]}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dec2vec.files.formats import Row
from dec2vec.files.layouts.beside import Beside, document
from dec2vec.files.layouts.layout import Survey, layout
from dec2vec.files.layouts.query import (
    UNKNOWN_ID,
    BadRowError,
    MisshapenError,
    Query,
    described,
    id_of,
    text_in,
    text_of,
)


def _passages(row: Row, column: str) -> list[str]:
    value = row.get(column) or []
    if not isinstance(value, list):
        raise MisshapenError(f"{column} is {described(value)}, not a list of passages")
    return [text for place, item in enumerate(value, start=1) if (text := _passage(f"item {place} of {column}", item))]


def _passage(name: str, value: object) -> str:
    if isinstance(value, dict) and "text" not in value:
        raise MisshapenError(f"{name} has no text ({', '.join(map(str, value)) or 'it is empty'})")
    if not isinstance(value, dict):
        raise MisshapenError(f"{name} is {described(value)}, not an object with docid, title and text")
    title, text = (text_of(f"{part} of {name}", value.get(part)).strip() for part in ("title", "text"))
    return document(title, text) if text else ""


def _version_1(row: Row) -> Query:
    if "query" not in row:
        raise MisshapenError("there is no query")
    return Query(text_in(row, "query"), _passages(row, "positive_passages"), _passages(row, "negative_passages"))


def ids_in(row: Row, column: str) -> list[str]:
    """A list of ids of documents; MisshapenError for anything else."""
    value = row.get(column) or []
    if not isinstance(value, list):
        raise MisshapenError(f"{column} is {described(value)}, not a list of ids")
    return [id_of(f"item {place} of {column}", item) for place, item in enumerate(value, start=1)]


def found_texts(ids: Iterable[str], documents: Mapping[str, str]) -> list[str]:
    """The texts of the documents; BadRowError if one of them does not exist."""
    try:
        return [documents[name] for name in ids]
    except KeyError:
        raise BadRowError(UNKNOWN_ID) from None


def _survey(rows: Iterable[Row], beside: Beside) -> Survey:
    wanted: set[str] = set()
    for row in rows:
        wanted.update(ids_in(row, "positive_document_ids"), ids_in(row, "negative_document_ids"))
    documents = beside.documents(wanted)

    def read(row: Row) -> Query:
        sides = (
            found_texts(ids_in(row, column), documents) for column in ("positive_document_ids", "negative_document_ids")
        )
        positives, negatives = sides
        return Query(text_in(row, "query_text"), positives, negatives)

    return Survey(read, (f"documents from {beside.place('corpus')}",))


VERSION_1 = layout(
    "Tevatron", "positive_passages", _version_1, texts="query negative_passages", used="query_id answers"
)
VERSION_2 = layout(
    "Tevatron with document ids",
    "query_text positive_document_ids",
    survey=_survey,
    options="corpus",
    texts="negative_document_ids",
    used="query_id query_image answer answers source",
)
LAYOUTS = (VERSION_1, VERSION_2)
