"""The pairs that get negatives, the corpus that is searched, and the texts that can't be a negative of a pair."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.cells import is_absent, is_negative_column, is_number, negative_columns
from dec2vec.files.formats import Row
from dec2vec.files.layouts.beside import document
from dec2vec.files.layouts.query import DOCUMENT_INSTRUCTION, QUERY_INSTRUCTION, TEACHER_SCORES
from dec2vec.files.layouts.read import PairFile, open_layout
from dec2vec.files.sources import Named
from dec2vec.files.tables import Table, read_table, read_texts, selected
from train.data.row_scores import ScoreColumns
from train.mining.encoders import NO_INSTRUCTIONS, Instructions

_SHARED = re.compile(r"data\.N\.(anchor|positive)\b")
ADDED = ("anchor", "positive", "positive_score", "negative_scores", TEACHER_SCORES)


@dataclass(frozen=True)
class Material:
    """Row i has anchors[i], positives[i], the negatives given[i] of the input, and its other columns."""

    name: str
    anchors: list[str]
    positives: list[str]
    given: list[tuple[str, ...]]
    other_columns: list[Row]
    corpus: list[str]
    """Texts that differ in more than case and spacing."""
    excluded: list[Collection[int]]
    """For each row the corpus positions of its anchor, of all texts paired with it, and of its given negatives."""
    teacher_scores: Sequence[list[float | None] | None] = ()
    """A reranker's scores of each row's positive and given negatives, where the input has them."""
    instructions: Instructions = NO_INSTRUCTIONS

    def __len__(self) -> int:
        return len(self.anchors)


def read_material(
    path: str,
    anchor: str = "anchor",
    positive: str = "positive",
    *,
    only: Sequence[str] = (),
    limit: int | None = None,
    corpus: Path | None = None,
    corpus_column: str = "text",
) -> Material:
    """Read and check the pairs, and the corpus (the positives of all pairs if there is no file).

    Pairs that `only` and `limit` leave out get no negatives, but their texts are still never each other's negatives.
    """
    try:
        everything, table, is_own = _pairs(path, anchor, positive, tuple(only), limit)
    except UserError as error:
        raise UserError(_of_mine(str(error))) from None
    anchors, positives = table.texts(anchor), table.texts(positive)
    given, pairs = _given_negatives(table), _complete_pairs(everything, anchor, positive)
    texts = distinct([text for _, text in pairs] if corpus is None else _corpus_texts(corpus, corpus_column))
    if len(texts) < 2:
        source = corpus if corpus is not None else f"the positives of {table.name}"
        raise UserError(f"{source} has {len(texts)} different text; mining needs at least two")
    written = {anchor, positive, *ADDED}
    others = [{k: v for k, v in row.items() if k not in written and not is_negative_column(k)} for row in table.rows]
    excluded = _excluded(anchors, pairs, given, texts)
    return Material(
        table.name,
        anchors,
        positives,
        given,
        others,
        texts,
        excluded,
        _teacher_scores(everything, table, own=is_own),
        _instructions(table, positives),
    )


def _teacher_scores(everything: Table, chosen: Table, *, own: bool) -> list[list[float | None] | None]:
    """A reranker's scores of the documents of each row, read as training does; None where a row has none.

    UserError for faulty ones in `teacher_scores`, which is written anew. Another column stays as it is.
    """
    layout = ScoreColumns.of_tables([everything], own=own)
    found: list[list[float | None] | None] = []
    for row in range(len(chosen)):
        name = layout.column(chosen, row)
        scores = (
            layout.read(chosen, row) if name == TEACHER_SCORES or _is_numeric(chosen.rows[row].get(name or "")) else ()
        )
        if scores is None and name == TEACHER_SCORES:
            raise UserError(f"{layout.described(chosen, row)}; mend the row, or write null")
        known = [None if math.isnan(score) else score for score in scores or ()]
        found.append(known if any(score is not None for score in known) else None)
    return found


def _is_numeric(value: object) -> bool:
    """Whether a cell holds numbers and nulls alone, so that it may be scores."""
    items = value if isinstance(value, list) else [value]
    return all(is_absent(item) or (not isinstance(item, bool) and is_number(str(item))) for item in items)


def _instructions(table: Table, positives: Sequence[str]) -> Instructions:
    """Of the queries, and of the documents by their text, as the first row has them."""
    queries = ["".join(table.filled(row, [QUERY_INSTRUCTION])) for row in range(len(table))]
    documents: dict[str, str] = {}
    for row, positive in enumerate(positives):
        documents.setdefault(positive, "".join(table.filled(row, [DOCUMENT_INSTRUCTION])))
    return Instructions(queries if any(queries) else (), {text: task for text, task in documents.items() if task})


def _corpus_texts(corpus: Path, column: str) -> list[str]:
    """The texts to search. Documents of a BEIR folder come with their titles, as the positives do."""
    if not corpus.is_dir() or column != "text":
        return read_texts(corpus, column)
    table = read_table(corpus, [column])
    texts = [table.text(index, column, may_be_blank=True) for index in range(len(table))]
    titles = [row.get("title") if "_id" in row else "" for row in table.rows]
    return [
        document(title, text) if isinstance(title, str) else text for title, text in zip(titles, texts, strict=True)
    ]


def _of_mine(message: str) -> str:
    """A message about a source of training with the options of mine in place of those of `data.N`."""
    message = _SHARED.sub(r"--\1", message).replace("(data.N.split)", "(write PATH@SPLIT)")
    return f"{message} (an option of training, not of mine)" if "data.N." in message else message


def _pairs(
    path: str, anchor: str, positive: str, only: tuple[str, ...], limit: int | None
) -> tuple[Table, Table, bool]:
    """All rows, those that get negatives, and whether they have columns of their own: others are made flat."""
    file = PairFile(Named(path), anchor, positive)
    flat = open_layout(file)
    if flat is None:
        rows = read_table(path)
        chosen_rows = selected(rows, [anchor, positive], only=only, limit=limit)  # of the file, as in training
        return rows.one_each(positive), chosen_rows.one_each(positive), True
    everything = flat.table(scores=True)
    chosen = open_layout(replace(file, only=only, limit=limit)) if only or limit is not None else None
    return everything, everything if chosen is None else chosen.table(scores=True), False


def material_from_pairs(
    name: str, anchors: list[str], positives: list[str], given: list[tuple[str, ...]], corpus: list[str]
) -> Material:
    """The material of pairs in memory."""
    excluded = _excluded(anchors, zip(anchors, positives, strict=True), given, corpus)
    return Material(name, anchors, positives, given, [{}] * len(anchors), corpus, excluded)


def same(text: str) -> str:
    """Equal for texts that differ in case, spacing and the spelling of composed characters alone."""
    return unicodedata.normalize("NFC", " ".join(text.split()).casefold())


def distinct(texts: Iterable[str]) -> list[str]:
    """The first of equal texts each; blank texts are left out."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(same(text), text)
    first.pop("", None)
    return list(first.values())


def _given_negatives(table: Table) -> list[tuple[str, ...]]:
    """Each row's negatives of the input, in the order of their columns."""
    columns = negative_columns(table.columns)
    return [tuple(table.filled(row, columns)) for row in range(len(table))]


def _complete_pairs(table: Table, anchor: str, positive: str) -> list[tuple[str, str]]:
    """Anchor and positive of every row that has both."""
    cells = ((row.get(anchor), row.get(positive)) for row in table.rows)
    return [(one, other) for one, other in cells if isinstance(one, str) and isinstance(other, str)]


def _excluded(
    anchors: Sequence[str], pairs: Iterable[tuple[str, str]], given: Iterable[Sequence[str]], corpus: Sequence[str]
) -> list[Collection[int]]:
    """Positions that can't be a negative of each anchor. The two texts of a pair exclude each other."""
    positions = {same(text): position for position, text in enumerate(corpus)}
    partners: defaultdict[str, set[str]] = defaultdict(set)
    for anchor, positive in ((same(anchor), same(positive)) for anchor, positive in pairs):
        partners[anchor].add(positive)
        partners[positive].add(anchor)
    return [
        {positions[key] for key in (anchor, *partners[anchor], *map(same, negatives)) if key in positions}
        for anchor, negatives in zip(map(same, anchors), given, strict=True)
    ]
