"""Training-side text: what whitening is fitted on, and what overlap is measured against."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dec2vec.errors import UserError
from dec2vec.files.cells import is_negative_column
from dec2vec.files.layouts.read import PairFile, graded_blocks, joined, open_layout
from dec2vec.files.layouts.recognise import OWN
from dec2vec.files.sources import Named
from dec2vec.files.tables import BLOCK, Table, read_blocks, read_table, read_texts
from eval.leakage.normal_form import normalized
from eval.leakage.streamed_texts import StreamedTexts, joined_texts, left_over
from eval.tasks.task import Task
from eval.tasks.topics import TrainedTask

FEW = 50_000
"""With no more streamed rows all texts are read into memory."""
_TEXT_COLUMNS = ("anchor", "positive", "text", "sentence1", "sentence2", "query", "document")
_PEER_COLUMNS = ("question", "answer", "response", "premise", "hypothesis", "pos", "neg", "pos_doc", "neg_doc")
"""Columns of texts in the layouts of other trainers."""


@dataclass(frozen=True)
class FitText:
    """The sample that whitening is fitted on, without the `dropped` texts, which occur in an evaluation file."""

    sentences: list[str]
    dropped: int
    sha256: str


@dataclass(frozen=True)
class TextSource:
    """The part of a data set that a run was trained on. Columns that are not named are found by their usual names."""

    path: str
    columns: tuple[str, ...] = ()
    negatives: tuple[str, ...] | None = None
    split: str = "train"
    subset: str | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None
    streaming: bool = False
    revision: str | None = None
    corpus: str | None = None
    queries: str | None = None
    min_grade: int = 1
    kind: str = "pairs"


def read_training_texts(source: TextSource) -> Sequence[str]:
    """Distinct texts of a .txt or of a table's text columns, in order; `StreamedTexts` of many streamed rows."""
    path = source.path
    if source.streaming and source.columns and sum(map(len, islice(_blocks(source), FEW // BLOCK + 1))) > FEW:
        return StreamedTexts(partial(_text_blocks, source), (source,))
    if Path(path).suffix == ".txt":
        return list(dict.fromkeys(text for text in read_texts(Path(path)) if text.strip()))
    table, usual = _table_of_layout(source)  # the order of the texts is that of the columns
    if table is not None:
        source = TextSource(path, columns=OWN if source.kind == "pairs" else ("sentence1", "sentence2"))
    table = table or read_table(
        path,
        source.columns,
        split=source.split,
        subset=source.subset,
        only=source.only,
        limit=source.limit,
        streaming=source.streaming,
        revision=source.revision,
    )
    wanted = [column for column in table.columns if _is_text_column(column, source, usual)]
    if not wanted:
        raise UserError(
            f"{path}: none of the columns {table.columns} contains texts (anchor, positive, text, sentence1 ...)"
        )
    return list(dict.fromkeys(text for column in wanted for text in _cells(table, column)))


def _table_of_layout(source: TextSource) -> tuple[Table | None, tuple[str, ...]]:
    """The flat rows of `_flat_table`, and the usual names of columns of texts.

    A file that no run was trained on need not be fit for training; if it is not, the texts of its columns are enough.
    """
    try:
        return (_flat_table(source) if source.kind in ("pairs", "graded") else None), _TEXT_COLUMNS
    except UserError:
        if source.columns:
            raise
        return None, (*_TEXT_COLUMNS, *_PEER_COLUMNS)


def _text_blocks(source: TextSource) -> Iterator[list[str]]:
    """The texts of a streamed source, a block of rows at a time."""
    file = _pair_file(source)
    is_flat = source.kind == "pairs" and open_layout(file, must_fit=False) is not None
    named = replace(source, columns=OWN) if is_flat else source
    for table in _blocks(source):
        wanted = [column for column in table.columns if _is_text_column(column, named, _TEXT_COLUMNS)]
        yield [text for column in wanted for text in _cells(table, column)]


def _blocks(source: TextSource) -> Iterator[Table]:
    file = _pair_file(source)
    graded = graded_blocks(file) if source.columns == ("sentence1", "sentence2") else None
    if graded is not None:
        return graded
    flat = open_layout(file, must_fit=False) if source.kind == "pairs" else None
    if flat is not None:
        return flat.blocks()
    return read_blocks(
        source.path,
        source.columns,
        split=source.split,
        subset=source.subset,
        only=source.only,
        limit=source.limit,
        streaming=True,
        revision=source.revision,
    )


def _pair_file(source: TextSource) -> PairFile:
    anchor, positive = source.columns if len(source.columns) == 2 else OWN
    return PairFile(
        named=Named(source.path, source.split, source.subset, source.streaming, source.revision),
        anchor=anchor,
        positive=positive,
        negatives=source.negatives,
        only=source.only,
        limit=source.limit,
        corpus=source.corpus,
        queries=source.queries,
        min_grade=source.min_grade,
        bad_rows=1.0,
    )


def _flat_table(source: TextSource) -> Table | None:
    """The flat rows of a file with the layout of another trainer; None for other files."""
    file = _pair_file(source)
    if source.kind == "graded":
        tables = graded_blocks(file) if source.columns == ("sentence1", "sentence2") else None
        return None if tables is None else joined(list(tables))
    flat = open_layout(file, must_fit=False)
    return None if flat is None else flat.table()


def _is_text_column(column: str, source: TextSource, usual: Sequence[str]) -> bool:
    if not source.columns:
        return column in usual or is_negative_column(column)
    if source.negatives is None:
        return column in source.columns or is_negative_column(column)
    return column in source.columns or column in source.negatives


def _cells(table: Table, column: str) -> Iterable[str]:
    cells = (row.get(column) for row in table.rows)
    items = (item for cell in cells for item in (cell if isinstance(cell, list) else [cell]))
    return (item for item in items if isinstance(item, str) and item.strip())


def without(sources: Mapping[str, Sequence[str]], evaluated: Iterable[str]) -> list[str]:
    """Distinct training-side texts that are no evaluation text, case and punctuation apart."""
    forbidden = {normalized(text) for text in evaluated}
    pool = dict.fromkeys(text for texts in sources.values() for text in texts)
    return [text for text in pool if normalized(text) not in forbidden]


def sample_fit_text(sources: Mapping[str, Sequence[str]], evaluated: Iterable[str], count: int, seed: int) -> FitText:
    """A seeded sample without evaluation texts: a fit on scored sentences would be transductive."""
    pool = list(dict.fromkeys(text for texts in sources.values() for text in texts))
    forbidden = {normalized(text) for text in evaluated}
    chosen: list[str] = []
    dropped = 0
    for index in np.random.default_rng(seed).permutation(len(pool)):
        if len(chosen) == count:
            break
        if normalized(pool[index]) in forbidden:
            dropped += 1
        else:
            chosen.append(pool[index])
    digest = hashlib.sha256("\0".join(chosen).encode("utf-8", "surrogatepass"))
    return FitText(chosen, dropped, digest.hexdigest())


def merged_by_file(texts: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Texts by name; two spellings of one local file are one, under the first."""
    found: dict[str, list[Sequence[str]]] = {}
    names: dict[Path, str] = {}
    for name, some in texts.items():
        first = names.setdefault(Path(name).resolve(), name)
        found.setdefault(first, []).append(some)
    return {name: joined_texts(parts) for name, parts in found.items()}


def with_fit_text(trained: Mapping[str, Sequence[str]], fit: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Texts by file that runs were trained on, and what whitening is fitted on besides.

    A run may have left rows of a file out (`data.N.only`). What `fit` reads of it in addition is called `FILE (fit)`.
    """
    found = merged_by_file(trained)
    names = {Path(name).resolve(): name for name in found}
    for name, texts in merged_by_file(fit).items():
        file = names.get(Path(name).resolve())
        rest = texts if file is None else left_over(texts, found[file])
        if isinstance(rest, StreamedTexts) or len(rest):
            found[name if file is None else f"{file} (fit)"] = rest
    return found


def held_out_texts(tasks: Sequence[Task[Any]]) -> list[str]:
    """Test and dev texts of every task. A whitening fitted on dev texts looks better there than it is.

    What a task's own classifier learns from is training-side text.
    """
    texts: list[str] = []
    for task in tasks:
        texts += task.test.both
        if isinstance(task, TrainedTask):
            texts += [] if task.data.dev is None else task.data.dev.texts
        elif task.dev is not None:
            texts += task.dev.both
    return texts
