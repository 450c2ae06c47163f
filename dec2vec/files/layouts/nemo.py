"""NeMo's rows: `pos_doc` and `neg_doc` as texts (inline), or as ids of documents in the corpora that the file names.

    {"query": "...", "pos_doc": "...", "neg_doc": ["...", "..."]}
    {"corpus": [{"path": "wiki_corpus"}],
     "data": [{"question": "...", "corpus_id": "wiki_corpus", "pos_doc": [{"id": "d1"}], "neg_doc": ["d2"]}]}

`question` and `query` mean the same. A corpus is a folder with a `merlin_metadata.json` that gives its id.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.compressed import content_suffix, whole_text
from dec2vec.files.formats import Row
from dec2vec.files.layouts.beside import Beside
from dec2vec.files.layouts.layout import Survey, layout
from dec2vec.files.layouts.query import MisshapenError, Query, described, id_of, text_in, text_of
from dec2vec.files.layouts.tevatron import found_texts


def _question(row: Row) -> str:
    column = next((name for name in ("query", "question") if name in row), None)
    if column is None:
        raise MisshapenError("there is neither query nor question")
    return text_in(row, column)


def _items(row: Row, column: str) -> list[object]:
    value = row.get(column)
    if value is None or value == "":
        return []
    return value if isinstance(value, list) else [value]


def _inline(row: Row) -> Query:
    positives, negatives = (
        [text for item in _items(row, column) if (text := _text(column, item))] for column in ("pos_doc", "neg_doc")
    )
    return Query(_question(row), positives, negatives)


def _text(column: str, item: object) -> str:
    if isinstance(item, dict) and "text" in item:
        return text_of(f"text of {column}", item["text"])
    if isinstance(item, dict):
        raise MisshapenError(f"{column} is {described(item)}, not a text or an object with text")
    return text_of(column, item)


def _ids(row: Row, column: str) -> list[str]:
    items = (item.get("id") if isinstance(item, dict) else item for item in _items(row, column))
    return [id_of(f"id of {column}", item) for item in items]


def _has_ids(row: Row) -> bool:
    named = row.get("corpus_id") not in (None, "__inline__")
    return named or any(
        isinstance(item, dict) and "text" not in item and "id" in item for item in _items(row, "pos_doc")
    )


def _survey(rows: Iterable[Row], beside: Beside) -> Survey:
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        wanted[str(row.get("corpus_id"))].update(_ids(row, "pos_doc"), _ids(row, "neg_doc"))
    places = _corpora(beside) if beside.corpus is None else {}
    documents: dict[str, Mapping[str, str]] = {}
    for name, ids in wanted.items():
        place = places.get(name, beside.corpus)
        documents[name] = (beside if place is None else replace(beside, corpus=place)).documents(ids)

    def read(row: Row) -> Query:
        corpus = documents[str(row.get("corpus_id"))]
        positives, negatives = (found_texts(_ids(row, column), corpus) for column in ("pos_doc", "neg_doc"))
        return Query(_question(row), positives, negatives)

    return Survey(read)


def _corpora(beside: Beside) -> dict[str, str]:
    """The folder of each corpus that a .json file names, by the id of the corpus."""
    path = Path(beside.source)
    if content_suffix(path) != ".json" or not path.is_file():
        return {}
    content = json.loads(whole_text(path))
    named = content.get("corpus", []) if isinstance(content, dict) else []
    folders = [item.get("path") for item in (named if isinstance(named, list) else [named]) if isinstance(item, dict)]
    return dict(_corpus(path, path.parent / str(folder)) for folder in folders)


def _corpus(path: Path, folder: Path) -> tuple[str, str]:
    if not folder.exists():
        raise UserError(f"{path}: its corpus {folder} does not exist; name it with data.N.corpus")
    note = folder / "merlin_metadata.json"
    metadata = json.loads(whole_text(note)) if note.is_file() else {}
    return str(metadata.get("corpus_id", folder.name)), str(folder)


_USED = "question_id query_id"
INLINE = layout(
    "NeMo",
    "pos_doc",
    _inline,
    texts="query question neg_doc",
    used=f"{_USED} corpus_id",
    fits_values=lambda row: not _has_ids(row),
)
BY_ID = layout(
    "NeMo with document ids",
    "pos_doc",
    survey=_survey,
    options="corpus",
    texts="query question neg_doc",
    used=f"{_USED} corpus_id",
    fits_values=_has_ids,
)
LAYOUTS = (INLINE, BY_ID)
