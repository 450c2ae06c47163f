"""The sampler that a configuration describes. Data that cannot be drawn in such batches are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import NORMALIZERS
from train.config import TrainConfig
from train.data.dataset import TrainingData
from train.data.prompted_input import NO_INSTRUCTIONS, PromptedInput, prompted_input, reading_keys, text_keys
from train.data.sampler import ByLabel, Even, Grouped, Indices, Mixed, OneSource, Sampler, steps_per_epoch
from train.data.table import Texts
from train.data.unique_sampler import UniqueTexts, shared_keys
from train.data.windows import Windows
from train.losses.per_source import losses_of

T = TypeVar("T")
_BLOCK = 8192
"""Number of rows whose texts are in memory at the same time."""


def make_sampler(config: TrainConfig, data: TrainingData) -> Sampler:
    """The order of the data; UserError if such batches cannot be drawn from it."""
    if config.batch.sources == "single":
        sampler: Sampler = _one_source(config, data)
    else:
        sampler = _order(config, data, range(len(data.tables)), config.batch.size)
    sampler.rows(0)  # refuses a batch larger than the data
    return sampler


def _one_source(config: TrainConfig, data: TrainingData) -> OneSource:
    sizes = data.sizes
    if config.batch.size > max(sizes):
        raise UserError(
            f"batch.size {config.batch.size} is larger than every source (the largest has {max(sizes)} pairs); "
            f"use batch.size {max(sizes)} or less"
        )
    for i, (size, source) in enumerate(zip(sizes, config.data, strict=True)):
        if size < 2:
            raise UserError(f"data.{i} ({source.path}) has {size} pair; a batch of a single source needs at least two")
    weights = _weights(config, sizes)
    parts = [_order(config, data, [i], min(config.batch.size, size)) for i, size in enumerate(sizes)]
    return OneSource(tuple(parts), sizes, weights, config.seed)


def _weights(config: TrainConfig, sizes: Sequence[int]) -> tuple[float, ...]:
    """The weights of all sources, or their numbers of rows. A mixture of both would hardly ever draw a weight of 2."""
    given = [source.weight for source in config.data]
    weights = [weight for weight in given if weight is not None]
    if not weights:
        return tuple(map(float, sizes))
    if len(weights) < len(given):
        one, other = next(i for i, weight in enumerate(given) if weight is not None), given.index(None)
        raise UserError(
            f"data.{other}.weight is missing, but data.{one} has {weights[0]:g}; give every source a weight, or none "
            f"(then the numbers of rows are used, here {', '.join(map(str, sizes))})"
        )
    return tuple(weights)


def _order(config: TrainConfig, data: TrainingData, numbers: Sequence[int], batch: int) -> Sampler:
    """The order of the sources with these numbers, which share their batches."""
    tables = [data.tables[number] for number in numbers]
    first = numbers[0]
    if data.sources[first].kind == "labelled":
        _refuse_few_labels(config.data[first].texts_per_label, first, batch)
    rows = sum(map(len, tables))
    windows = Windows(
        rows, batch, config.seed, lambda some, seed: _draw(config, data, numbers, some, batch=batch, seed=seed)
    )
    is_whole = _keeps_queries(config, data, first)
    streamed = next((number for number in numbers if data.sources[number].streaming), None)
    if streamed is None or (is_whole and windows.count == 1):
        return _draw(config, data, numbers, None, batch=batch, seed=config.seed)
    if is_whole and config.batch.no_duplicates:
        raise UserError(
            f"batch.no_duplicates: data.{streamed} is streamed and loss.positives keeps queries together, which cannot "
            "be had at once with so many rows; remove one of the three"
        )
    steps_per_epoch(rows, batch)
    return windows


def _keeps_queries(config: TrainConfig, data: TrainingData, number: int) -> bool:
    """Whether a batch has all rows of each of its queries."""
    return any(loss.positives != "each" for loss in losses_of(data.sources[number], config))


def _draw(
    config: TrainConfig, data: TrainingData, numbers: Sequence[int], rows: Indices | None, *, batch: int, seed: int
) -> Sampler:
    """The order of the rows with these numbers, which are counted through these sources; None is all of them."""
    tables, first = [data.tables[number] for number in numbers], numbers[0]
    if tables[0].kind == "labelled":
        labels = _columns([table.labels for table in tables], rows)
        return _by_label(labels, batch, config.data[first].texts_per_label, seed)
    count = sum(map(len, tables)) if rows is None else len(rows)
    if _keeps_queries(config, data, first):
        return _by_query(config, data, numbers, rows, batch=batch, seed=seed)
    if config.batch.no_duplicates:
        texts = _columns([table.texts for table in tables], rows)
        return _no_duplicates(texts, batch, seed, NORMALIZERS[config.model.text_normalization], np.arange(count))
    steps_per_epoch(count, batch)  # refuses a batch larger than the data
    return Mixed(count, batch, seed)


def _places(sizes: Sequence[int], rows: Indices | None) -> Iterator[tuple[int, int]]:
    """The table of each of these rows, which are numbered through all tables, and its number in it."""
    ends = np.cumsum(sizes)
    count = int(ends[-1]) if rows is None else len(rows)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        some = np.arange(start, stop) if rows is None else rows[start:stop]
        tables = np.searchsorted(ends, some, side="right")
        yield from zip(tables.tolist(), (some - (ends - sizes)[tables]).tolist(), strict=True)


def _columns(columns: Sequence[Sequence[T]], rows: Indices | None) -> Iterator[T]:
    """The cells of these rows, which are numbered through all columns."""
    if rows is None:
        return chain.from_iterable(columns)
    return (columns[at][row] for at, row in _places([*map(len, columns)], rows))


def _by_query(
    config: TrainConfig, data: TrainingData, numbers: Sequence[int], rows: Indices | None, *, batch: int, seed: int
) -> Grouped:
    """Batches of whole queries. Their number is that which has `batch` rows on the average.

    A query with more rows than half a batch is divided, so that each batch has different ones. In a window, whose
    number of batches is given, it is divided from a third on: so each batch has at least two parts.
    """
    tables = [data.tables[number] for number in numbers]
    count = sum(map(len, tables)) if rows is None else len(rows)
    steps = steps_per_epoch(count, batch)
    queries = query_groups(config, data, numbers, rows)
    if len(queries) < 2:
        raise UserError(
            f"data.{numbers[0]}: all its rows have one query, which has nothing to be contrasted with; use "
            "loss.positives each"
        )
    most = max(2, batch // 2) if rows is None else max(1, batch // 3)
    counts = sum(len(members) > most for members in queries), len(queries)
    groups = [part for members in queries for part in np.array_split(members, -(-len(members) // most))]
    if rows is not None:
        return Grouped(groups, Even(len(groups), steps, seed), *counts)
    size = max(2, round(batch * len(groups) / count))
    if not config.batch.no_duplicates:
        return Grouped(groups, Mixed(len(groups), size, seed), *counts)
    group_of_row = np.empty(count, dtype=np.int64)
    for number, members in enumerate(groups):
        group_of_row[members] = number
    texts, normalize = _columns([table.texts for table in tables], None), NORMALIZERS[config.model.text_normalization]
    return Grouped(groups, _no_duplicates(texts, size, seed, normalize, group_of_row), *counts)


def query_groups(
    config: TrainConfig, data: TrainingData, numbers: Sequence[int], rows: Indices | None = None
) -> list[Indices]:
    """The rows of each query in order, as places in `rows`, or in all rows. A query is a text in its prompt."""
    normalize = NORMALIZERS[config.model.text_normalization]
    sizes = [len(data.tables[number]) for number in numbers]
    readings = (_query(data, numbers[at], row, normalize) for at, row in _places(sizes, rows))
    keys: list[NDArray[np.int64]] = []
    while block := list(islice(readings, _BLOCK)):
        keys.append(reading_keys(block).numpy())
    _, first, names = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
    members = np.split(np.argsort(names, kind="stable"), np.cumsum(np.bincount(names))[:-1])
    return [members[place] for place in np.argsort(first)]


def _query(data: TrainingData, number: int, row: int, normalize: Callable[[str], str]) -> PromptedInput:
    source, table = data.sources[number], data.tables[number]
    own = table.instructions[row] if table.instructions else NO_INSTRUCTIONS
    return prompted_input(source, normalize(table.texts[row][0]), 0, own)


def _refuse_few_labels(group: int, number: int, batch: int) -> None:
    if batch < 4 * group:
        raise UserError(
            f"data.{number}.texts_per_label {group}: a batch of {batch} contains too few labels; use batch.size "
            f"{4 * group} or more"
        )


def _by_label(names: Iterable[str], batch: int, group: int, seed: int) -> ByLabel:
    _, labels = np.unique(text_keys(list(names)).numpy(), return_inverse=True)
    return ByLabel(labels.astype(np.int64), batch, group, seed)


def _no_duplicates(
    everything: Iterator[Texts], batch: int, seed: int, normalize: Callable[[str], str], group_of_row: Indices
) -> UniqueTexts:
    """Batches of so many groups of rows, of which no two share a text."""
    counts: list[int] = []
    keys: list[NDArray[np.int64]] = []
    while rows := list(islice(everything, _BLOCK)):
        counts += map(len, rows)
        keys.append(text_keys([normalize(text) for texts in rows for text in texts]).numpy())
    groups = int(group_of_row.max()) + 1
    numbers = np.repeat(group_of_row, counts)
    sampler = UniqueTexts(shared_keys(numbers, np.concatenate(keys), groups), batch, seed)
    if groups >= batch and min(map(len, sampler.epoch(0))) < 2:
        raise UserError(
            "batch.no_duplicates: there are too few different texts, so some batches have a single row; remove it"
        )
    return sampler


def left_out(sampler: Sampler) -> int:
    """Number of rows that the first epoch leaves out because all batches have their texts; the next one varies them.

    Of streamed rows those of its first window are counted.
    """
    if isinstance(sampler, Windows):
        return left_out(sampler.window(0, 0)[1])
    if isinstance(sampler, OneSource):
        return sum(map(left_out, sampler.parts))
    if isinstance(sampler, Grouped) and isinstance(sampler.order, UniqueTexts):
        kept = {int(group) for batch in sampler.order.epoch(0) for group in batch}
        return sum(len(rows) for group, rows in enumerate(sampler.groups) if group not in kept)
    if isinstance(sampler, UniqueTexts):
        return len(sampler.keys) - sum(map(len, sampler.epoch(0)))
    return 0
