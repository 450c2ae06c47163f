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
from train.data.prompted_input import text_keys
from train.data.sampler import ByLabel, Indices, Mixed, OneSource, Sampler, steps_per_epoch
from train.data.table import SourceTable, Texts
from train.data.unique_sampler import UniqueTexts, shared_keys
from train.data.windows import Windows

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
            f"use --batch.size {max(sizes)} or less"
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
    is_labelled = data.sources[first].kind == "labelled"
    if is_labelled:
        _refuse_few_labels(config.data[first].texts_per_label, first, batch)
    rows = sum(map(len, tables))
    if not any(data.sources[number].streaming for number in numbers):
        return _draw(config, tables, None, batch, config.data[first].texts_per_label, config.seed)
    steps_per_epoch(rows, batch)
    return Windows(
        rows,
        batch,
        config.seed,
        lambda some, seed: _draw(config, tables, some, batch, config.data[first].texts_per_label, seed),
    )


def _draw(
    config: TrainConfig, tables: Sequence[SourceTable], rows: Indices | None, batch: int, group: int, seed: int
) -> Sampler:
    """The order of the rows with these numbers; None is all of the tables."""
    if tables[0].kind == "labelled":
        return _by_label(_columns([table.labels for table in tables], rows), batch, group, seed)
    if config.batch.no_duplicates:
        texts = _columns([table.texts for table in tables], rows)
        return _no_duplicates(texts, batch, seed, NORMALIZERS[config.model.text_normalization])
    count = sum(map(len, tables)) if rows is None else len(rows)
    steps_per_epoch(count, batch)  # refuses a batch larger than the data
    return Mixed(count, batch, seed)


def _columns(columns: Sequence[Sequence[T]], rows: Indices | None) -> Iterator[T]:
    """The cells of these rows, which are numbered through all columns."""
    if rows is None:
        return chain.from_iterable(columns)
    ends = np.cumsum([len(column) for column in columns])
    places = np.searchsorted(ends, rows, side="right").tolist()
    starts = (ends - [len(column) for column in columns]).tolist()
    return (columns[at][row - starts[at]] for at, row in zip(places, rows.tolist(), strict=True))


def _refuse_few_labels(group: int, number: int, batch: int) -> None:
    if batch < 4 * group:
        raise UserError(
            f"data.{number}.texts_per_label {group}: a batch of {batch} contains too few labels; use --batch.size "
            f"{4 * group} or more"
        )


def _by_label(names: Iterable[str], batch: int, group: int, seed: int) -> ByLabel:
    _, labels = np.unique(text_keys(list(names)).numpy(), return_inverse=True)
    return ByLabel(labels.astype(np.int64), batch, group, seed)


def _no_duplicates(everything: Iterator[Texts], batch: int, seed: int, normalize: Callable[[str], str]) -> UniqueTexts:
    counts: list[int] = []
    keys: list[NDArray[np.int64]] = []
    while rows := list(islice(everything, _BLOCK)):
        counts += map(len, rows)
        keys.append(text_keys([normalize(text) for texts in rows for text in texts]).numpy())
    numbers = np.repeat(np.arange(len(counts)), counts)
    sampler = UniqueTexts(shared_keys(numbers, np.concatenate(keys), len(counts)), batch, seed)
    if len(counts) >= batch and min(map(len, sampler.epoch(0))) < 2:
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
    if isinstance(sampler, UniqueTexts):
        return len(sampler.keys) - sum(map(len, sampler.epoch(0)))
    return 0
