"""Held-out pairs: rows of the training data that are searched for during training instead of being trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from dec2vec.errors import UserError
from dec2vec.files.held_out import NO_DOCUMENT, SHARED, HeldOut, Keys, Reading, Split, hold_out, text_key, text_keys
from dec2vec.prompts.prompt import NORMALIZERS
from train.config import TrainConfig
from train.data.dataset import TrainingData, load_data
from train.data.prompted_input import NO_INSTRUCTIONS, prompted_input
from train.data.row_extras import extras_of
from train.data.table import Packer, SourceTable, Texts

DOCUMENTS = 5
"""Documents for each held-out query, if their number is not given."""


def load_run_data(config: TrainConfig) -> tuple[TrainingData, HeldOut | None]:
    """The rows that a run trains on, and the pairs that are held out of them, if `eval.dev` asks for such."""
    _refuse_streams(config)
    mixed = config.batch.sources == "mixed"
    extras = [extras_of(config, source) for source in config.data]
    data = load_data(config.data, normalization=config.model.text_normalization, mixed=mixed, extras=extras)
    tasks = [(number, task) for number, task in enumerate(config.eval.dev_tasks) if task.held_out is not None]
    if not tasks:
        return data, None
    if len(tasks) > 1:
        raise UserError(f"config error: eval.dev.{tasks[1][0]}: held_out is given twice; keep one")
    number, task = tasks[0]
    assert task.held_out is not None
    documents = task.documents or DOCUMENTS * task.held_out
    return split_off(data, task.held_out, documents, NORMALIZERS[config.model.text_normalization], f"eval.dev.{number}")


def _refuse_streams(config: TrainConfig) -> None:
    number = next((number for number, task in enumerate(config.eval.dev_tasks) if task.held_out is not None), None)
    streamed = next((at for at, source in enumerate(config.data) if source.streaming and source.kind == "pairs"), None)
    if number is not None and streamed is not None:
        raise UserError(
            f"config error: eval.dev.{number}.held_out: data.{streamed} is streamed, and rows are held out of data in "
            "memory only; give a dev file"
        )


def split_off(
    data: TrainingData, count: int, documents: int, normalize: Callable[[str], str], option: str
) -> tuple[TrainingData, HeldOut]:
    """Hold out `count` queries with their pairs, which then search among at most `documents` documents.

    Besides the held-out positives these are positives of the rows that are trained on. Texts are compared as the model
    reads them. UserError, in which `option` names the task, if there are too few such pairs, or if hardly any would be
    left to train on.
    """
    pairs = [number for number, table in enumerate(data.tables) if table.kind == "pairs"]
    if not pairs:
        raise UserError(f"{option}.held_out: only pairs can be held out, and no source has pairs; give another task")
    places = [(number, row) for number in pairs for row in range(len(data.tables[number]))]
    anchors, positives = (text_keys(_texts(data, pairs, place, normalize)) for place in (0, 1))
    split = hold_out(anchors, positives, count, _document_keys(data, pairs))
    _check(split, count, len(places), option)
    gone = np.union1d(split.held, split.dropped)
    found = _collect(data, places, split, _distractors(positives, split, gone, documents), normalize)
    rest = _without(data, [places[row] for row in gone.tolist()], option)
    texts = {normalize(text) for place in split.held.tolist() for text in _row(data, places[place])[:2]}
    tables, removed = _without_negatives(rest.tables, texts, normalize)
    told = [_told(split, option), *_told_of_rest(tables, removed, texts, normalize)]
    return replace(rest, tables=tables, held_out="; ".join(told)), found


def _texts(data: TrainingData, pairs: list[int], place: int, normalize: Callable[[str], str]) -> Iterator[str]:
    return (normalize(row[place]) for number in pairs for row in data.tables[number].texts)


def _row(data: TrainingData, place: tuple[int, int]) -> Texts:
    number, row = place
    return data.tables[number].texts[row]


def _document_keys(data: TrainingData, pairs: list[int]) -> Keys:
    """Of each pair; the same id in another source is another document."""
    keys: list[int] = []
    for number in pairs:
        ids = data.tables[number].ids or [""] * len(data.tables[number])
        keys += [text_key(f"{number} {name}") if name else NO_DOCUMENT for name in ids]
    return np.array(keys, dtype=np.int64)


def _check(split: Split, count: int, rows: int, option: str) -> None:
    if split.queries < count:
        passed = f" ({split.passed_over:,} others have a text that more than {SHARED} further rows share)"
        raise UserError(
            f"{option}.held_out {count}: there are only {split.queries:,} queries that can be held out"
            f"{passed if split.passed_over else ''}; {_fix(split, rows)}"
        )
    gone = len(split.held) + len(split.dropped)
    if 2 * gone > rows:
        raise UserError(
            f"{option}.held_out {count}: {gone:,} of {rows:,} pairs would leave training ({len(split.dropped):,} of "
            f"them because they share a text or a document with a held-out one); {_fix(split, rows)}"
        )


def _fix(split: Split, rows: int) -> str:
    """Suggest as many queries as take about a tenth of the pairs, if that is one at least."""
    number = split.queries * rows // (10 * max(1, len(split.held) + len(split.dropped)))
    return f"use about {number:,}, or give a dev file" if number else "give a dev file"


def _distractors(positives: Keys, split: Split, gone: Keys, documents: int) -> Keys:
    """Rows whose positives are the further documents, those with the smallest keys."""
    held = np.unique(positives[split.held])
    rest = np.setdiff1d(np.arange(len(positives)), gone, assume_unique=True)
    keys, first = np.unique(positives[rest], return_index=True)
    new = ~np.isin(keys, held)
    return rest[first[new]][: max(0, documents - len(held))]


def _collect(
    data: TrainingData,
    places: list[tuple[int, int]],
    split: Split,
    distractors: Keys,
    normalize: Callable[[str], str],
) -> HeldOut:
    """Queries and documents in the order of the rows, each once as it stands in its first row, with that row's prompt.

    Texts that the model reads alike are one.
    """
    queries: dict[str, tuple[str, Reading]] = {}
    documents: dict[str, tuple[str, Reading]] = {}
    pairs: list[tuple[str, str]] = []
    for row in [*split.held.tolist(), *distractors.tolist()]:
        number, at = places[row]
        texts = data.tables[number].texts[at]
        query, document = normalize(texts[0]), normalize(texts[1])
        documents.setdefault(document, (texts[1], _reading(data, number, at, 1)))
        if len(pairs) < len(split.held):
            queries.setdefault(query, (texts[0], _reading(data, number, at, 0)))
            pairs.append((query, document))
    at_document = {text: at for at, text in enumerate(documents)}
    relevant: dict[str, list[int]] = {text: [] for text in queries}
    for query, document in dict.fromkeys(pairs):
        relevant[query].append(at_document[document])
    return HeldOut(
        [text for text, _ in queries.values()],
        [text for text, _ in documents.values()],
        list(relevant.values()),
        [prompt for _, prompt in queries.values()],
        [prompt for _, prompt in documents.values()],
        passed_over=split.passed_over,
    )


def _reading(data: TrainingData, number: int, row: int, place: int) -> Reading:
    table = data.tables[number]
    instructions = table.instructions[row] if table.instructions else NO_INSTRUCTIONS
    read = prompted_input(data.sources[number], "", place, instructions)
    return read.prompt, read.task


def _without(data: TrainingData, gone: list[tuple[int, int]], option: str) -> TrainingData:
    """The other rows. Those that left are in `left_out`."""
    left: dict[int, set[int]] = {}
    for number, row in gone:
        left.setdefault(number, set()).add(row)
    tables = tuple(_kept(table, left.get(number, set())) for number, table in enumerate(data.tables))
    empty = next((number for number, table in enumerate(tables) if not len(table)), None)
    if empty is not None:
        raise UserError(
            f"{option}.held_out: no row of data.{empty} {data.sources[empty].path} would be left; use fewer"
        )
    counts = tuple(
        replace(of_source, dropped=of_source.dropped + len(left.get(number, ())))
        for number, of_source in enumerate(data.counts)
    )
    left_out = tuple(table.keep(sorted(left.get(number, ()))) for number, table in enumerate(data.tables))
    return replace(data, tables=tables, counts=counts, left_out=left_out)


def _without_negatives(
    tables: tuple[SourceTable, ...], texts: set[str], normalize: Callable[[str], str]
) -> tuple[tuple[SourceTable, ...], int]:
    """The tables without the hard negatives that are among `texts`, and how many these were."""
    found, removed = [], 0
    for table in tables:
        wrong = {} if table.kind != "pairs" else _negatives_among(table, texts, normalize)
        found.append(_without_places(table, wrong) if wrong else table)
        removed += sum(map(len, wrong.values()))
    return tuple(found), removed


def _negatives_among(table: SourceTable, texts: set[str], normalize: Callable[[str], str]) -> dict[int, set[int]]:
    """By row the places of its hard negatives that are among `texts`."""
    found: dict[int, set[int]] = {}
    for number, row in enumerate(table.texts):
        places = {place for place in range(2, len(row)) if normalize(row[place]) in texts}
        if places:
            found[number] = places
    return found


def _without_places(table: SourceTable, wrong: Mapping[int, set[int]]) -> SourceTable:
    """The rows without the texts at these places, and without their scores, which begin with the positive's."""
    packer = Packer()
    packer.extend(
        tuple(text for place, text in enumerate(row) if place not in wrong.get(number, ()))
        for number, row in enumerate(table.texts)
    )
    scores = [
        tuple(score for place, score in enumerate(row, start=1) if place not in wrong.get(number, ()))
        for number, row in enumerate(table.document_scores)
    ]
    return replace(table, texts=packer.done(), document_scores=scores)


def _told_of_rest(
    tables: Sequence[SourceTable], removed: int, texts: set[str], normalize: Callable[[str], str]
) -> list[str]:
    """What the rows that are trained on had, or still have, of the held-out `texts`."""
    told = [f"{removed:,} hard negatives that are held-out texts were removed from the rows"] if removed else []
    for number, table in enumerate(tables):
        rows = () if table.kind == "pairs" else table.texts
        stay = sum(any(normalize(text) in texts for text in row) for row in rows)
        if stay:
            told.append(f"{stay:,} rows of data.{number} ({table.kind}) have a held-out text and are trained on")
    return told


def _told(split: Split, option: str) -> str:
    over = f"; {split.passed_over:,} queries were passed over, as more than {SHARED} rows share a text with each"
    return (
        f"{option}: {split.queries:,} queries with {len(split.held):,} pairs are held out, and {len(split.dropped):,} "
        f"further pairs that share an anchor, a positive or a document with them are not trained on"
        f"{over if split.passed_over else ''}"
    )


def _kept(table: SourceTable, left: set[int]) -> SourceTable:
    return table.keep([row for row in range(len(table)) if row not in left]) if left else table


def texts_left_out(data: TrainingData) -> set[str]:
    """The texts that only rows have that are held out of training."""
    texts = {text for table in data.left_out for row in table.texts for text in row}
    for row in chain.from_iterable(table.texts for table in data.tables if texts):
        texts.difference_update(row)
    return texts
