"""The sampler that a configuration describes. Data that cannot be drawn in such batches are refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice, repeat

import numpy as np
from numpy.typing import NDArray

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import NORMALIZERS
from train.config import TrainConfig
from train.data.dataset import TrainingData
from train.data.prompted_input import PromptedInput, reading_keys, text_keys
from train.data.sampler import ByLabel, Grouped, Indices, Mixed, OneSource, Sampler, steps_per_epoch
from train.data.table import SourceTable
from train.data.unique_sampler import UniqueTexts, shared_keys
from train.losses.per_source import losses_of

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
    if data.sources[first].kind == "labelled":
        return _by_label(config, tables, first, batch)
    rows = sum(map(len, tables))
    if any(loss.positives != "each" for loss in losses_of(data.sources[first], config)):
        return _by_query(config, data, numbers, batch)
    if config.batch.no_duplicates:
        return _no_duplicates(config, tables, batch, np.arange(rows))
    steps_per_epoch(rows, batch)  # refuses a batch larger than the data
    return Mixed(rows, batch, config.seed)


def _by_query(config: TrainConfig, data: TrainingData, numbers: Sequence[int], batch: int) -> Grouped:
    """Batches of whole queries. Their number is that which has `batch` rows on the average.

    A query with more rows than half a batch is divided, so that each batch has different ones.
    """
    tables = [data.tables[number] for number in numbers]
    rows = sum(map(len, tables))
    steps_per_epoch(rows, batch)
    queries = query_groups(config, data, numbers)
    if len(queries) < 2:
        raise UserError(
            f"data.{numbers[0]}: all its rows have one query, which has nothing to be contrasted with; use "
            "--loss.positives each"
        )
    groups = [part for members in queries for part in np.array_split(members, -(-len(members) // max(2, batch // 2)))]
    size = max(2, round(batch * len(groups) / rows))
    if not config.batch.no_duplicates:
        return Grouped(groups, Mixed(len(groups), size, config.seed))
    group_of_row = np.empty(rows, dtype=np.int64)
    for number, members in enumerate(groups):
        group_of_row[members] = number
    return Grouped(groups, _no_duplicates(config, tables, size, group_of_row))


def query_groups(config: TrainConfig, data: TrainingData, numbers: Sequence[int]) -> list[Indices]:
    """The rows of each query in order. A query is a text in its prompt."""
    normalize = NORMALIZERS[config.model.text_normalization]
    keys: list[NDArray[np.int64]] = []
    for number in numbers:
        source, table = data.sources[number], data.tables[number]
        anchors = (row[0] for row in table.texts)
        tasks = (own[0] for own in table.instructions) if table.instructions else repeat("")
        readings = (
            PromptedInput(normalize(text), source.query_prompt, task=task or None)
            for text, task in zip(anchors, tasks, strict=False)
        )
        while block := list(islice(readings, _BLOCK)):
            keys.append(reading_keys(block).numpy())
    _, first, names = np.unique(np.concatenate(keys), return_index=True, return_inverse=True)
    members = np.split(np.argsort(names, kind="stable"), np.cumsum(np.bincount(names))[:-1])
    return [members[place] for place in np.argsort(first)]


def _by_label(config: TrainConfig, tables: Sequence[SourceTable], first: int, batch: int) -> ByLabel:
    group = config.data[first].texts_per_label
    if batch < 4 * group:
        raise UserError(
            f"data.{first}.texts_per_label {group}: a batch of {batch} contains too few labels; use --batch.size "
            f"{4 * group} or more"
        )
    names = [label for table in tables for label in table.labels]
    _, labels = np.unique(text_keys(names).numpy(), return_inverse=True)
    return ByLabel(labels.astype(np.int64), batch, group, config.seed)


def _no_duplicates(
    config: TrainConfig, tables: Sequence[SourceTable], batch: int, group_of_row: Indices
) -> UniqueTexts:
    """Batches of so many groups of rows, of which no two share a text."""
    normalize = NORMALIZERS[config.model.text_normalization]
    counts: list[int] = []
    keys: list[NDArray[np.int64]] = []
    everything = chain.from_iterable(table.texts for table in tables)
    while rows := list(islice(everything, _BLOCK)):
        counts += map(len, rows)
        keys.append(text_keys([normalize(text) for texts in rows for text in texts]).numpy())
    groups = int(group_of_row.max()) + 1
    numbers = np.repeat(group_of_row, counts)
    sampler = UniqueTexts(shared_keys(numbers, np.concatenate(keys), groups), batch, config.seed)
    if groups >= batch and min(map(len, sampler.epoch(0))) < 2:
        raise UserError(
            "batch.no_duplicates: there are too few different texts, so some batches have a single row; remove it"
        )
    return sampler


def left_out(sampler: Sampler) -> int:
    """Number of rows that the first epoch leaves out because all batches have their texts; the next one varies them."""
    if isinstance(sampler, OneSource):
        return sum(map(left_out, sampler.parts))
    if isinstance(sampler, Grouped) and isinstance(sampler.order, UniqueTexts):
        kept = {int(group) for batch in sampler.order.epoch(0) for group in batch}
        return sum(len(rows) for group, rows in enumerate(sampler.groups) if group not in kept)
    if isinstance(sampler, UniqueTexts):
        return len(sampler.keys) - sum(map(len, sampler.epoch(0)))
    return 0
