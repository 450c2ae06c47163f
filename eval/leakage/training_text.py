"""Training-side text: what whitening is fitted on, and what overlap is measured against."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dec2vec.errors import UserError
from dec2vec.files.cells import is_negative_column
from dec2vec.files.kept_rows import kept_in
from dec2vec.files.layouts.read import PairFile, graded_blocks, joined, open_layout
from dec2vec.files.layouts.recognise import OWN
from dec2vec.files.sources import Named
from dec2vec.files.tables import Table, read_table, read_texts
from eval.leakage.normal_form import normalized
from eval.systems.recipes import PARTS, run_config
from eval.systems.system import run_name
from eval.tasks.task import Task
from eval.tasks.topics import TrainedTask

_TEXT_COLUMNS = ("anchor", "positive", "text", "sentence1", "sentence2", "query", "document")
_PEER_COLUMNS = ("question", "answer", "response", "premise", "hypothesis", "pos", "neg", "pos_doc", "neg_doc")
"""Columns of texts in the layouts of other trainers."""
_COLUMNS = {
    "pairs": ("anchor", "positive"),
    "graded": ("sentence1", "sentence2"),
    "texts": ("text",),
    "labelled": ("text",),
}
"""Options of `data` that name the columns of texts, by the kind of a source's rows."""


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


def read_training_texts(source: TextSource) -> list[str]:
    """Distinct texts of a .txt or of a table's text columns, in order."""
    path = source.path
    if Path(path).suffix == ".txt":
        return list(dict.fromkeys(text for text in read_texts(Path(path)) if text.strip()))
    table, usual = _table_of_layout(source)
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


def _flat_table(source: TextSource) -> Table | None:
    """The flat rows of a file with the layout of another trainer; None for other files."""
    anchor, positive = source.columns or OWN
    file = PairFile(
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


@dataclass(frozen=True)
class TrainedOn:
    """By file the texts that tuned runs were trained on; by run why some of it, or all, is not known."""

    texts: dict[str, list[str]]
    unknown: dict[str, str]


def trained_on(*runs: str) -> TrainedOn:
    """What run folders' own `config.yaml` name, as far as it can be read here.

    What several entries or runs share is read once: seeds of one recipe cost no more than one run.
    """
    found: dict[str, dict[str, None]] = {}
    unknown: dict[str, str] = {}
    sources = {name: _run_data(name) for name in runs}
    for run in (name for name, named in sources.items() if not named):
        unknown[run] = "there is no config.yaml that names its data"
    for run in runs:
        for earlier in _earlier_rounds(run):
            data = _run_data(earlier)
            sources[run] = [*sources[run], *data]
            if not data:
                unknown[run] = f"it went on from the adapter {run_name(earlier)}, which does not say what its data were"
    for source, run in {source: name for name, named in sources.items() for source in named}.items():
        try:
            found.setdefault(source.path, {}).update(dict.fromkeys(read_training_texts(source)))
        except UserError as error:
            unknown[run] = str(error)
    return TrainedOn(merged_by_file({path: list(texts) for path, texts in found.items() if texts}), unknown)


def merged_by_file(texts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Texts by name; two spellings of one local file are one, under the first."""
    found: dict[str, dict[str, None]] = {}
    names: dict[Path, str] = {}
    for name, some in texts.items():
        first = names.setdefault(Path(name).resolve(), name)
        found.setdefault(first, {}).update(dict.fromkeys(some))
    return {name: list(some) for name, some in found.items()}


def with_fit_text(trained: Mapping[str, Sequence[str]], fit: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Texts by file that runs were trained on, and what whitening is fitted on besides.

    A run may have left rows of a file out (`data.N.only`). What `fit` reads of it in addition is called `FILE (fit)`.
    """
    found = merged_by_file(trained)
    names = {Path(name).resolve(): name for name in found}
    for name, texts in merged_by_file(fit).items():
        file = names.get(Path(name).resolve())
        known = set(found.get(file, ())) if file is not None else set()
        rest = [text for text in texts if text not in known]
        if rest:
            found[name if file is None else f"{file} (fit)"] = rest
    return found


def run_sources(*runs: str) -> dict[str, list[str]]:
    """The known texts of `trained_on`."""
    return trained_on(*runs).texts


def _earlier_rounds(run: str) -> list[str]:
    """The adapters from which the training of a run went on, the latest first."""
    found: list[str] = []
    while (name := _adapter_of([run, *found][-1])) is not None and name not in found:
        found.append(name)
    return found


def _adapter_of(run: str) -> str | None:
    try:
        model = (run_config(run) or {}).get("model")
    except UserError:
        return None
    return _optional(model, "adapter") if isinstance(model, dict) else None


def _run_data(run: str) -> list[TextSource]:
    try:
        sources = (run_config(run) or {}).get("data")
    except UserError:
        return []
    if not isinstance(sources, list):
        return []
    folder = Path(run).resolve()
    home = folder.parent if folder.name in PARTS else folder
    named = (source for source in sources if isinstance(source, dict) and "path" in source)
    return [_source({**source, "path": kept_in(home, str(source["path"]))}) for source in named]


def _source(data: Mapping[str, Any]) -> TextSource:
    """One entry of `data` as the trainer reads it."""
    negatives, limit = data.get("negatives"), data.get("limit")
    return TextSource(
        path=str(data["path"]),
        columns=tuple(str(data.get(name, name)) for name in _COLUMNS.get(str(data.get("kind", "pairs")), ())),
        negatives=None if negatives is None else tuple(map(str, negatives)),
        split=str(data.get("split", "train")),
        subset=_optional(data, "subset"),
        only=tuple(map(str, data.get("only") or ())),
        limit=None if limit is None else int(limit),
        streaming=data.get("streaming") is True,
        revision=_optional(data, "revision"),
        corpus=_optional(data, "corpus"),
        queries=_optional(data, "queries"),
        min_grade=int(data.get("min_grade", 1)),
        kind=str(data.get("kind", "pairs")),
    )


def _optional(data: Mapping[str, Any], name: str) -> str | None:
    return None if data.get(name) is None else str(data[name])


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
