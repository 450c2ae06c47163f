"""Pairs from a file of any known layout, as flat rows: `anchor`, `positive`, `negative_1` ...

found = open_layout(PairFile(Named("train.jsonl")))
if found is None:              # the columns are called anchor and positive, or the user named them
    read_blocks(...)
else:
    for table in found.blocks(): ...
    print(found.told)          # FlagEmbedding rows: 1 positive, 7 negatives a query
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dec2vec.errors import UserError
from dec2vec.files.cells import listed, only_numbers
from dec2vec.files.formats import Numbered, Row
from dec2vec.files.layouts.beside import Beside
from dec2vec.files.layouts.layout import Layout, ReadRow, Survey
from dec2vec.files.layouts.query import (
    EMPTY,
    QUERY_INSTRUCTION,
    TEACHER_SCORES,
    BadRowError,
    MisshapenError,
    Query,
    texts_in,
)
from dec2vec.files.layouts.raw import FIELDS, raw_reader
from dec2vec.files.layouts.recognise import LAYOUTS, OWN, other_layout, recognise, unused_note
from dec2vec.files.layouts.swift import graded_row, is_graded
from dec2vec.files.sources import Named, place_of
from dec2vec.files.tables import Rows, Table

BAD_ROWS = 0.01
"""Largest fraction of rows from which nothing can be learned, by default."""


@dataclass(frozen=True)
class PairFile:
    """A source of pairs, and how to read it. The options are those of `data.N` in a training run."""

    named: Named
    anchor: str = OWN[0]
    positive: str = OWN[1]
    negatives: tuple[str, ...] | None = None
    document_id: str | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None
    corpus: str | None = None
    queries: str | None = None
    min_grade: int = 1
    bad_rows: float = BAD_ROWS
    clean: bool = False
    """Leave out rows without a query or a positive, however many they are."""


def open_layout(file: PairFile, *, must_fit: bool = True) -> FlatRows | None:
    """The flat rows of a file; None if its rows have the columns `anchor` and `positive`, or others that are named.

    If no layout fits the columns either, UserError with `must_fit`, and otherwise None.
    """
    if (file.anchor, file.positive) != OWN:
        _check_options(file, None)
        return None
    file = replace(file, named=_judgements(file.named.resolved()))
    rows = Rows.open(file.named, file.only, 1, raw_reader)
    number, first = next(rows.numbered, (0, None))
    if first is None or not (must_fit or any(layout.fits(first) for layout in LAYOUTS)):
        return None
    if FIELDS in first and (Path(rows.name).parent.name == "qrels" or Path(rows.name).name.startswith("qrels")):
        raise UserError(f"{rows.name}: the first line must name the columns query-id, corpus-id and score; add it")
    layout = recognise(first, place_of(rows.name, rows.unit, number), rows.name)
    if must_fit:
        _check_options(file, layout)
    return None if layout is None else FlatRows(file, layout)


def _check_options(file: PairFile, layout: Layout | None) -> None:
    """Raise UserError for an option about texts beside the rows where the rows contain all their texts."""
    given = {"corpus": file.corpus, "queries": file.queries, "min_grade": None if file.min_grade == 1 else "set"}
    needed = frozenset[str]() if layout is None else layout.options
    idle = next((name for name, value in given.items() if value is not None and name not in needed), None)
    if idle is not None:
        rows = f"rows of {' and '.join((file.anchor, file.positive)) if layout is None else layout.name}"
        raise UserError(f"{file.named.source}: {rows} do not use data.N.{idle}; remove it")


def graded_blocks(file: PairFile) -> Iterator[Table] | None:
    """Tables with sentence1, sentence2 and score from ms-swift's rows with degrees; None for every other file."""
    first = next(Rows.open(file.named, file.only, 1, raw_reader).numbered, None)
    if first is None or not is_graded(first[1]):
        return None
    rows = Rows.open(file.named, file.only, file.limit, raw_reader)
    return Rows(rows.name, rows.unit, file.only, _graded(rows)).blocks(["sentence1", "sentence2", "score"])


def _graded(rows: Rows) -> Iterator[Numbered]:
    for number, row in rows.numbered:
        try:
            if not is_graded(row):
                raise MisshapenError("no messages, positive_messages and label")
            yield number, graded_row(row)
        except MisshapenError as error:
            where = place_of(rows.name, rows.unit, number)
            raise UserError(f"{where}: not a row of ms-swift with degrees: {error}") from None


def _judgements(named: Named) -> Named:
    """The judgements in a folder laid out as BEIR's are; UserError if there are none of the split."""
    folder = Path(named.source) / "qrels"
    if not named.source or not folder.is_dir():
        return named
    judged = folder / f"{named.split}.tsv"
    if not judged.is_file():
        splits = ", ".join(sorted(path.stem for path in folder.glob("*.tsv"))) or "none"
        raise UserError(f"{judged} does not exist; the splits with judgements are: {splits} (data.N.split)")
    return replace(named, source=str(judged))


class FlatRows:
    """The flat rows of a file, and after `blocks` what there is to tell about it."""

    def __init__(self, file: PairFile, layout: Layout) -> None:
        self._file, self._layout = file, layout
        self._rows = Rows.open(file.named, file.only, file.limit, raw_reader)
        self._faults: dict[str, list[int]] = {}
        self._columns: dict[str, None] = {}
        self._positives: Counter[int] = Counter()
        self._negatives: Counter[int] = Counter()
        self._notes: tuple[str, ...] = ()
        self._count = self.empty = 0
        self._numbers, self._has_worded_negatives = "", False
        self._has_scores = False

    def blocks(self, columns: Sequence[str] = (), *, scores: bool = False) -> Iterator[Table]:
        """Tables of flat rows, which keep these columns; only with `scores` those of their texts are read and checked.

        UserError for a row of another shape or without one of the columns, and for too many faulty rows.
        """
        self._has_scores = scores
        read = self._layout.read or self._survey().read
        flat = self._flat(read)
        yield from Rows(self._rows.name, self._rows.unit, self._file.only, flat).blocks([*OWN, *columns])

    def table(self, *, scores: bool = False) -> Table:
        """All flat rows as one table."""
        return joined(list(self.blocks(scores=scores)))

    @property
    def reads_beside(self) -> bool:
        """Whether texts come from files beside the rows."""
        return bool(self._layout.options)

    @property
    def told(self) -> list[str]:
        """What was recognised, and which rows are left out."""
        counts = f"{_span(self._positives, 'positive')}, {_span(self._negatives, 'negative')} a query"
        faulty = [f"left out {self._count_faults()}"] if self._faults else []
        return ["; ".join([f"{self._layout.name} rows: {counts}", *self._notes]), *faulty]

    def unused(self, taken: Sequence[str] = ()) -> str | None:
        """A line about columns that are not used. `taken` are those of flat rows that the caller uses."""
        used = [column for column in self._columns if self._layout.knows(column)]
        used += self._layout.scores if TEACHER_SCORES in taken else ()
        used += self._layout.instructions if QUERY_INSTRUCTION in taken else ()
        named = [*(self._file.negatives or ()), *(condition.partition("=")[0] for condition in self._file.only)]
        named += [self._file.document_id] if self._file.document_id else []
        return unused_note(self._columns, [*used, *named, *taken])

    def _survey(self) -> Survey:
        file = self._file
        beside = Beside(file.named.source, file.corpus, file.queries, file.min_grade, file.named.revision)
        rows = Rows.open(file.named, file.only, file.limit, raw_reader)
        at = [0]

        def each() -> Iterator[Row]:
            for number, row in rows.numbered:
                at[0] = number
                self._check_columns(number, row)
                yield row

        make = self._layout.survey
        assert make is not None
        try:
            found = make(each(), beside)
        except MisshapenError as error:
            raise self._misshapen(at[0], str(error)) from None
        self._notes = found.notes
        return found

    def _flat(self, read: ReadRow) -> Iterator[Numbered]:
        pairs = 0
        for number, row in self._rows.numbered:
            self._count += 1
            self._columns.update(dict.fromkeys(row))
            self._check_columns(number, row)
            try:
                query = self._query(read, row)
            except MisshapenError as error:
                raise self._misshapen(number, str(error)) from None
            except BadRowError as error:
                self._leave_out(str(error), number)
                continue
            if query is not None:
                pairs += len(query.positives)
                yield from ((number, flat) for flat in query.rows(self._layout.rest(row)))
        self._check_named()
        self._check_faults(pairs)

    def _query(self, read: ReadRow, row: Row) -> Query | None:
        query = read(row)
        if query is None:
            return None
        if self._file.negatives is not None:
            named = [text for column in self._file.negatives for text in texts_in(row, column)]
            query = replace(query, negatives=named, negative_scores=())
        if not self._has_scores:
            query = replace(query, positive_scores=(), negative_scores=())
        query.check()
        if not self._layout.instructions:  # else the column is the user's
            self._columns.update(dict.fromkeys(query.extra))
        if query.negatives and not self._has_worded_negatives:
            self._numbers = self._numbers or query.negatives[0]
            self._has_worded_negatives = not only_numbers(query.negatives)
        self._positives[len(query.positives)] += 1
        self._negatives[len(query.negatives)] += 1
        return query

    def _leave_out(self, kind: str, number: int) -> None:
        if kind == EMPTY and self._file.clean:
            self.empty += 1
        else:
            self._faults.setdefault(kind, []).append(number)

    def _check_columns(self, number: int, row: Row) -> None:
        if not self._layout.needs <= row.keys():
            raise self._misshapen(number, other_layout(row, self._layout))

    def _check_named(self) -> None:
        """Columns that the user named exist, and the negatives are texts."""
        absent = next((name for name in self._file.negatives or () if name not in self._columns), None)
        if absent is not None:
            raise UserError(f"{self._rows.name}: no column {absent!r}; the columns are: {listed(self._columns)}")
        if self._numbers and not self._has_worded_negatives:
            raise UserError(
                f"{self._rows.name}: all hard negatives of its {self._layout.name} rows are numbers ({self._numbers}); "
                "if these are degrees of similarity, name the columns sentence1, sentence2 and score, and set "
                "data.N.kind graded"
            )

    def _check_faults(self, pairs: int) -> None:
        faulty = sum(map(len, self._faults.values()))
        if faulty > self._file.bad_rows * self._count:
            raise UserError(
                f"{self._rows.name}: {self._count_faults()}, more than data.N.bad_rows {self._file.bad_rows:g} allows; "
                "mend or remove them"
            )
        if not pairs:
            raise UserError(f"{self._rows.name}: no row gives a pair ({'; '.join([self._layout.name, *self._notes])})")

    def _count_faults(self) -> str:
        kinds = [
            f"{len(rows):,} {kind} (first: {place_of(Path(self._rows.name).name, self._rows.unit, rows[0])})"
            for kind, rows in self._faults.items()
        ]
        return f"{sum(map(len, self._faults.values())):,} of {self._count:,} rows: {', '.join(kinds)}"

    def _misshapen(self, number: int, found: str) -> UserError:
        where = place_of(self._rows.name, self._rows.unit, number)
        return UserError(f"{where}: not a row of {self._layout.name}: {found}")


def joined(tables: Sequence[Table]) -> Table:
    """The rows of all tables of one file."""
    rows = [row for table in tables for row in table.rows]
    return Table(tables[0].name, tables[0].unit, rows, [number for table in tables for number in table.numbers])


def _span(counts: Counter[int], name: str) -> str:
    """`1 positive`, `0 to 7 negatives`."""
    low, high = min(counts, default=0), max(counts, default=0)
    words = name if high == 1 else f"{name}s"
    return f"{low} {words}" if low == high else f"{low} to {high} {words}"
