"""Held-out pairs: rows of the training data that are searched for during training instead of being trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from dec2vec.errors import UserError
from dec2vec.files.held_out import SHARED, HeldOut, Keys, Reading, Split, hold_out, text_keys
from dec2vec.prompts.prompt import NORMALIZERS
from train.config import TrainConfig
from train.data.dataset import TrainingData, load_data
from train.data.prompted_input import NO_INSTRUCTIONS, prompted_input
from train.data.row_extras import extras_of
from train.data.table import SourceTable

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

    Besides the held-out positives these are positives of the rows that are trained on. UserError, in which `option`
    names the task, if there are too few such pairs, or if hardly any would be left to train on.
    """
    pairs = [number for number, table in enumerate(data.tables) if table.kind == "pairs"]
    if not pairs:
        raise UserError(f"{option}.held_out: only pairs can be held out, and no source has pairs; give another task")
    places = [(number, row) for number in pairs for row in range(len(data.tables[number]))]
    anchors, positives = (text_keys(_texts(data, pairs, place, normalize)) for place in (0, 1))
    split = hold_out(anchors, positives, count)
    _check(split, count, len(places), option)
    gone = np.union1d(split.held, split.dropped)
    found = _collect(data, places, split, _distractors(positives, split, gone, documents))
    return _without(data, [places[row] for row in gone.tolist()], split, option), found


def _texts(data: TrainingData, pairs: list[int], place: int, normalize: Callable[[str], str]) -> Iterator[str]:
    return (normalize(row[place]) for number in pairs for row in data.tables[number].texts)


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
            f"them because they share a text with a held-out one); {_fix(split, rows)}"
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


def _collect(data: TrainingData, places: list[tuple[int, int]], split: Split, distractors: Keys) -> HeldOut:
    """Queries and documents in the order of the rows, each text once with the prompt of its first row."""
    queries: dict[str, Reading] = {}
    documents: dict[str, Reading] = {}
    pairs: list[tuple[str, str]] = []
    for row in [*split.held.tolist(), *distractors.tolist()]:
        number, at = places[row]
        texts = data.tables[number].texts[at]
        documents.setdefault(texts[1], _reading(data, number, at, 1))
        if len(pairs) < len(split.held):
            queries.setdefault(texts[0], _reading(data, number, at, 0))
            pairs.append((texts[0], texts[1]))
    at_document = {text: at for at, text in enumerate(documents)}
    relevant: dict[str, list[int]] = {text: [] for text in queries}
    for query, document in dict.fromkeys(pairs):
        relevant[query].append(at_document[document])
    prompts = list(queries.values()), list(documents.values())
    return HeldOut(list(queries), list(documents), list(relevant.values()), *prompts, passed_over=split.passed_over)


def _reading(data: TrainingData, number: int, row: int, place: int) -> Reading:
    table = data.tables[number]
    instructions = table.instructions[row] if table.instructions else NO_INSTRUCTIONS
    read = prompted_input(data.sources[number], "", place, instructions)
    return read.prompt, read.task


def _without(data: TrainingData, gone: list[tuple[int, int]], split: Split, option: str) -> TrainingData:
    """The other rows, and with the first source of pairs a line that says how many left."""
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
    return replace(data, tables=tables, counts=counts, held_out=_told(split, option))


def _told(split: Split, option: str) -> str:
    over = f"; {split.passed_over:,} queries were passed over, as more than {SHARED} rows share a text with each"
    return (
        f"{option}: {split.queries:,} queries with {len(split.held):,} pairs are held out, and {len(split.dropped):,} "
        f"further pairs that share an anchor or a positive with them are not trained on"
        f"{over if split.passed_over else ''}"
    )


def _kept(table: SourceTable, left: set[int]) -> SourceTable:
    return table.keep([row for row in range(len(table)) if row not in left]) if left else table
