"""An MTEB task as a dev task: its data loaded beforehand, bounded by counts, and what it embeds.

mteb keeps the rows of a task by subset and split, or of a search its queries, corpus and judgements. Which of them stay
is decided by a hash of their texts, as for other dev tasks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.held_out import sample
from eval.tasks.task import Texts

FEWEST = 2
"""Rows of a subset that stay at least."""


@dataclass(frozen=True)
class _Part:
    """The data of one subset and split, and where they lie."""

    place: dict[str, Any]
    split: str

    @property
    def data(self) -> Any:
        return self.place[self.split]

    @property
    def is_search(self) -> bool:
        return isinstance(self.data, Mapping) and "corpus" in self.data


def loaded_task(given: Any, limit: int | None = None, documents: int | None = None) -> Any:
    """A copy of a task with its data, or with at most `limit` of its queries or rows and `documents` documents.

    Several subsets share the limits evenly. Relevant documents of the queries that stay are kept, even if they alone
    are more. The training texts of a classifier are bounded by mteb itself.
    """
    task, name = copy.copy(given), given.metadata.name
    if task.is_aggregate:
        if limit is not None or documents is not None:
            raise UserError(f"MTEB task {name} is made of several tasks, which limit and documents don't bound")
        return task
    _load(task)
    parts = _parts(task)
    if documents is not None and not all(part.is_search for part in parts):
        raise UserError(f"MTEB task {name} searches no documents; remove documents, or use limit")
    rows, corpus = (None if count is None else max(FEWEST, count // len(parts)) for count in (limit, documents))
    for part in parts:
        if part.is_search:
            part.place[part.split] = _fewer_queries(part.data, rows, corpus)
        elif rows is not None:
            part.place[part.split] = _fewer_rows(part.data, _columns(task, part.data), rows)
    return task


def texts_of(task: Any) -> Texts | None:
    """What an evaluation of a loaded task embeds, of a classifier with about as many training texts as it draws.

    None for an aggregate of tasks, and for a task of other things than texts.
    """
    if task.is_aggregate or list(task.metadata.modalities) != ["text"]:
        return None
    queries: dict[str, None] = {}
    documents: dict[str, None] = {}
    for part in _parts(task):
        if part.is_search:
            queries |= dict.fromkeys(part.data["queries"]["text"])
            documents |= dict.fromkeys(map(_document, part.data["corpus"]))
            continue
        columns = _columns(task, part.data)
        queries |= dict.fromkeys(_cells(part.data, columns))
        if hasattr(task, "samples_per_label"):
            queries |= dict.fromkeys(_cells(_drawn(task, part), columns))
    return Texts(list(queries), list(documents))


def _load(task: Any) -> None:
    import datasets

    try:
        if not task.data_loaded:
            task.load_data()
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"MTEB task {task.metadata.name}: its data could not be loaded: {error}") from None


def _parts(task: Any) -> list[_Part]:
    """Every subset and split that is measured, in containers of the task's own."""
    task.dataset = copy.copy(task.dataset)
    parts = []
    for subset in task.hf_subsets:
        place = task.dataset
        if subset in task.dataset:
            place = task.dataset[subset] = copy.copy(task.dataset[subset])
        parts += [_Part(place, split) for split in task.eval_splits if split in place]
    return list({(id(part.place), part.split): part for part in parts}.values())


def _columns(task: Any, data: Any) -> list[str]:
    """The columns of texts; every one with a text in it where a task does not name its own."""
    named = [column for column in task._get_content_columns() if column in data.column_names]
    if named or not len(data):
        return named
    return [column for column, cell in data[0].items() if isinstance(cell, str)]


def _cells(data: Any, columns: Sequence[str]) -> list[str]:
    cells = [cell for column in columns for cell in data[column]]
    items = (item for cell in cells for item in (cell if isinstance(cell, list) else [cell]))
    return [item for item in items if isinstance(item, str)]


def _drawn(task: Any, part: _Part) -> Any:
    """As many training rows as a classifier draws at most in all its experiments."""
    train = part.place[task.train_split]
    labels = len(set(map(str, train[task.label_column_name])))
    return train.select(range(min(len(train), task.n_experiments * task.samples_per_label * labels)))


def _document(row: Mapping[str, Any]) -> str:
    return f"{row.get('title') or ''} {row['text']}".strip()


def _fewer_rows(data: Any, columns: Sequence[str], limit: int) -> Any:
    """Fewer rows, or fewer items of each row where all of them are lists of equally many texts."""
    first = data[0]
    lengths = {len(first[column]) if isinstance(first[column], list) else 0 for column in columns}
    if lengths == {0} or len(lengths) > 1:
        return data.select(sample([_joined(row[column] for column in columns) for row in data], limit))
    from datasets import Dataset

    return Dataset.from_list([_fewer_items(row, columns, max(FEWEST, limit // len(data))) for row in data])


def _fewer_items(row: Mapping[str, Any], columns: Sequence[str], limit: int) -> dict[str, Any]:
    """The same items of every list that is as long as those of the texts."""
    items = list(zip(*(row[column] for column in columns), strict=True))
    kept = sample(list(map(_joined, items)), limit).tolist()
    lists = {name for name, cell in row.items() if isinstance(cell, list) and len(cell) == len(items)}
    return {name: [cell[at] for at in kept] if name in lists else cell for name, cell in row.items()}


def _fewer_queries(data: Mapping[str, Any], limit: int | None, documents: int | None) -> dict[str, Any]:
    """Of the queries with a relevant document. What a task ranks of each query stays too."""
    queries, corpus, ranked = data["queries"], data["corpus"], data.get("top_ranked")
    relevant = {name: of for name, of in data["relevant_docs"].items() if any(grade > 0 for grade in of.values())}
    queries = queries.select([at for at, name in enumerate(queries["id"]) if name in relevant])
    queries = queries.select(sample(queries["text"], limit))
    kept = set(queries["id"])
    needed = {name for query in kept for name, grade in relevant[query].items() if grade > 0}
    needed |= {name for query in kept for name in (ranked or {}).get(query, ())}
    if documents is not None and documents < len(corpus):
        others = [at for at, name in enumerate(corpus["id"]) if name not in needed]
        further = sample([_document(corpus[at]) for at in others], max(0, documents - len(needed)))
        chosen = {others[at] for at in further.tolist()}
        corpus = corpus.select([at for at, name in enumerate(corpus["id"]) if name in needed or at in chosen])
    there = set(corpus["id"])
    judged = {name: {d: grade for d, grade in relevant[name].items() if d in there} for name in kept}
    fewer = {"queries": queries, "corpus": corpus, "relevant_docs": judged}
    return {**data, **fewer, "top_ranked": ranked and {name: ranked[name] for name in kept if name in ranked}}


def _joined(cells: Any) -> str:
    return "\0".join(map(str, cells))
