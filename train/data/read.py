"""From a file to rows of its kind: reads the columns that the configuration names, and checks every cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from dec2vec.errors import UserError
from dec2vec.files.cells import holds_only_numbers, is_absent, listed, negative_columns, only_numbers
from dec2vec.files.layouts.query import TEACHER_SCORES
from dec2vec.files.layouts.read import PairFile, graded_blocks, open_layout
from dec2vec.files.layouts.recognise import OWN, stray_note, unused_note
from dec2vec.files.sources import Named
from dec2vec.files.tables import Table, read_blocks
from train.data.row_extras import NOTHING, Extras, lines, with_extras
from train.data.row_scores import ScoreColumns, ScoreReader
from train.data.table import Packer, SourceTable, Texts
from train.options.data import Kind, SourceConfig


@dataclass(frozen=True)
class Told:
    """What there is to tell of a source: which layout was recognised, and a warning of columns that are not used."""

    layout: tuple[str, ...] = ()
    unused: str | None = None


def read_source(source: SourceConfig) -> tuple[SourceTable, int]:
    """The table and the number of rows of `read_and_tell`."""
    table, left_out, _ = read_and_tell(source)
    return table, left_out


@runtime_checkable
class Keep(Protocol):
    """Where rows go that were read and checked."""

    def add(self, part: SourceTable) -> None:
        """Append rows."""

    def done(self) -> SourceTable:
        """All rows."""

    def close(self) -> None:
        """Also called after an error."""


def read_and_tell(
    source: SourceConfig, extras: Extras = NOTHING, keep: Keep | None = None
) -> tuple[SourceTable, int, Told]:
    """The rows of a source, how many with an empty text `clean` left out, and what to tell; without `clean` rows with
    an empty text are refused. Of what rows have besides texts, `extras` are read.

    Rows are read and checked a block at a time, and kept packed unless `keep` has another place for them.
    """
    flat = open_layout(pair_file(source)) if source.kind == "pairs" else None
    scores = None if extras.scores is None else ScoreReader(_score_columns(source, is_flat=flat is not None))
    if flat is not None:
        source = replace(source, negatives=None)  # flat rows have those that the user named
    texts = text_columns(source)
    extra = [name for name in [_extra_column(source)] if name is not None]
    taken = extras.columns(own=flat is None)
    left_out = 0
    with closing(_Found(source, texts, taken, keep or _Packed(source.kind))) as found:
        for table in _blocks(source) if flat is None else flat.blocks(extra, scores=TEACHER_SCORES in taken):
            table = table.one_each(source.positive) if source.kind == "pairs" else table
            rows = [row for row in range(len(table)) if not source.clean or _is_whole(table, row, texts)]
            left_out += len(table) - len(rows)
            part = _TABLES[source.kind](table, rows, source)
            if taken:
                part = with_extras(part, table, rows, extras, scores)
            found.add(table, part)
        whole = found.done()
        told = found.told() if flat is None else Told(tuple(flat.told), flat.unused(taken))
        told = replace(told, layout=(*told.layout, *lines(whole, extras, scores, source)))
        return whole, left_out + (0 if flat is None else flat.empty), told


def pair_file(source: SourceConfig) -> PairFile:
    """A source of pairs as the readers of layouts take it."""
    return PairFile(
        named=Named(source.path, source.split, source.subset, source.streaming, source.revision),
        anchor=source.anchor,
        positive=source.positive,
        negatives=source.negatives,
        document_id=source.document_id,
        only=source.only,
        limit=source.limit,
        corpus=source.corpus,
        queries=source.queries,
        min_grade=source.min_grade,
        bad_rows=source.bad_rows,
        clean=source.clean,
    )


def _score_columns(source: SourceConfig, *, is_flat: bool) -> ScoreColumns:
    """How the scores of a source of pairs are read, which all its rows decide: they are read once more for it."""
    flat = open_layout(pair_file(source)) if is_flat else None
    tables = _blocks(source) if flat is None else flat.blocks()
    named = source.negatives if flat is None else None  # flat rows have those that the user named
    return ScoreColumns.of_tables((table.one_each(source.positive) for table in tables), named, own=flat is None)


def _blocks(source: SourceConfig) -> Iterator[Table]:
    """The rows of a source whose columns have the names that its options give."""
    has_usual_names = (source.sentence1, source.sentence2, source.score) == ("sentence1", "sentence2", "score")
    graded = graded_blocks(pair_file(source)) if source.kind == "graded" and has_usual_names else None
    if graded is not None:
        return graded
    extra = _extra_column(source)
    columns = [*text_columns(source), *([] if extra is None else [extra])]
    is_own = source.kind == "pairs" and text_columns(source) == OWN
    tables = read_blocks(
        source.path,
        [] if is_own else columns,
        split=source.split,
        subset=source.subset,
        only=source.only,
        limit=source.limit,
        streaming=source.streaming,
        revision=source.revision,
    )
    return _own_rows(tables, columns) if is_own else tables


def _own_rows(tables: Iterator[Table], columns: Sequence[str]) -> Iterator[Table]:
    """The tables, each row with these columns. UserError, which names the layout of a row that has another."""
    for number, table in enumerate(tables):
        for index, row in enumerate(table.rows):
            if note := stray_note(row):
                raise UserError(f"{table.where(index)}: {note}")
        if number == 0:
            table.require(columns)
        table.require_in_rows(columns)
        yield table


class _Packed:
    """Keeps rows in memory, their texts packed."""

    def __init__(self, kind: Kind) -> None:
        self._kind: Kind = kind
        self._texts = Packer()
        self._scores: list[float] = []
        self._labels: list[str] = []
        self._ids: list[str] = []
        self._document_scores: list[tuple[float, ...]] = []
        self._instructions: list[tuple[str, str]] = []

    def add(self, part: SourceTable) -> None:
        self._texts.extend(part.texts)
        self._scores += part.scores
        self._labels += part.labels
        self._ids += part.ids
        self._document_scores += part.document_scores
        self._instructions += part.instructions

    def done(self) -> SourceTable:
        of_kind = self._scores or (), self._labels or (), self._ids or ()
        extras = self._document_scores or (), self._instructions or ()
        return SourceTable(self._kind, self._texts.done(), *of_kind, *extras)

    def close(self) -> None:
        self._texts.close()


class _Found:
    """Collects the blocks of a source, of which `taken` are the columns of extras."""

    def __init__(self, source: SourceConfig, columns: Sequence[str], taken: Sequence[str], keep: Keep) -> None:
        self._source, self._columns, self._taken, self._keep = source, columns, taken, keep
        self._name = source.path
        self._seen: dict[str, None] = {}
        self._with_words: set[str] = set()

    def add(self, table: Table, part: SourceTable) -> None:
        """Append a block: the table as read, and its checked rows."""
        self._name = table.name
        self._seen |= dict.fromkeys(table.columns)
        self._keep.add(part)
        for place, column in enumerate(self._columns):
            if column not in self._with_words and not only_numbers([row[place] for row in part.texts]):
                self._with_words.add(column)

    def done(self) -> SourceTable:
        """All rows; UserError for a column that holds only numbers, and for a named column that no row has."""
        absent = next((name for name in self._source.negatives or () if name not in self._seen), None)
        if absent is not None:
            raise UserError(f"{self._name}: no column {absent!r}; the columns are: {listed(self._seen)}")
        numeric = next((column for column in self._columns if column not in self._with_words), None)
        if numeric is not None:
            raise holds_only_numbers(self._name, numeric)
        return self._keep.done()

    def told(self) -> Told:
        """What there is to tell of rows with named columns."""
        return told_of_columns(self._source, self._seen, self._taken)

    def close(self) -> None:
        """Close the temporary file, also after an error."""
        self._keep.close()


def told_of_columns(source: SourceConfig, seen: Iterable[str], taken: Sequence[str] = ()) -> Told:
    """Columns that are not used, of pairs; files of other kinds often have many more."""
    if source.kind != "pairs":
        return Told()
    seen = list(seen)
    negatives = _negatives(seen, source)
    extra = [source.document_id] if source.document_id else []
    only = [condition.partition("=")[0] for condition in source.only]
    return Told(unused=unused_note(seen, [source.anchor, source.positive, *negatives, *extra, *only, *taken]))


def text_columns(source: SourceConfig) -> tuple[str, ...]:
    """The columns that must have a text in every row."""
    match source.kind:
        case "pairs":
            return source.anchor, source.positive
        case "graded":
            return source.sentence1, source.sentence2
        case "texts" | "labelled":
            return (source.text,)


def _extra_column(source: SourceConfig) -> str | None:
    return {"pairs": source.document_id, "graded": source.score, "texts": None, "labelled": source.label}[source.kind]


def _is_whole(table: Table, row: int, columns: Sequence[str]) -> bool:
    """Whether no text is missing or blank. A value of another type passes here, and is refused when it is read."""
    values = (table.rows[row].get(column) for column in columns)
    return not any(is_absent(value) or (isinstance(value, str) and not value.strip()) for value in values)


def _negatives(columns: Iterable[str], source: SourceConfig) -> Sequence[str]:
    return negative_columns(columns) if source.negatives is None else source.negatives


def _pairs(table: Table, rows: Sequence[int], source: SourceConfig) -> SourceTable:
    negatives = _negatives(table.columns, source)
    texts = [
        (table.text(row, source.anchor), table.text(row, source.positive), *table.filled(row, negatives))
        for row in rows
    ]
    ids = [] if source.document_id is None else [table.label(row, source.document_id) for row in rows]
    return SourceTable("pairs", texts, ids=ids)


def _graded(table: Table, rows: Sequence[int], source: SourceConfig) -> SourceTable:
    texts = [(table.text(row, source.sentence1), table.text(row, source.sentence2)) for row in rows]
    return SourceTable("graded", texts, scores=[_number(table, row, source.score) for row in rows])


def _texts(table: Table, rows: Sequence[int], source: SourceConfig) -> SourceTable:
    return SourceTable("texts", _alone(table, rows, source.text))


def _labelled(table: Table, rows: Sequence[int], source: SourceConfig) -> SourceTable:
    labels = [table.label(row, source.label) for row in rows]
    return SourceTable("labelled", _alone(table, rows, source.text), labels=labels)


_TABLES = {"pairs": _pairs, "graded": _graded, "texts": _texts, "labelled": _labelled}


def _alone(table: Table, rows: Sequence[int], column: str) -> list[Texts]:
    return [(table.text(row, column),) for row in rows]


def _number(table: Table, row: int, column: str) -> float:
    value = table.rows[row][column]
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float, str)) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{table.where(row)}: {column} {value!r} is not a finite number; fix it or remove the row")
    return number
