"""Hard negatives that follow the model: mined again every n steps with the current weights (ANCE, Xiong et al. 2021).

The result of a search is stored on disk under its step: for each row, the rows whose positives are its negatives. A run
that resumes between two searches reads this file. A run that is killed during a search repeats it with equal weights.

A streamed source may be too large to be searched. There the rows of the steps until the next search get negatives, and
the positives of these rows are searched.
"""

from __future__ import annotations

import contextlib
import io
import logging
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Float32, Int64

from dec2vec.config.model import EncodeOptions
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_bytes, why_not_written
from dec2vec.prompts.prompt import Side
from dec2vec.vectors.averaging import unit_rows
from train.checkpointing.run_folder import RunFolder
from train.config import TrainConfig
from train.data.dataset import TrainingData
from train.data.sampler import Indices, Sampler
from train.data.table import SourceTable, Texts
from train.distributed.collectives import sum_over_ranks
from train.mining.encoders import Instructions, embed_all
from train.mining.pairs import distinct, material_from_pairs, same
from train.mining.search import Judges, mine
from train.mining.selection import Rules, Selection
from train.options.data import MiningConfig, SourceConfig

_log = logging.getLogger(__name__)
NONE = -1
"""Fills the places of a row that has fewer negatives than `mining.negatives`."""
NegativeRows = Int64[np.ndarray, "rows negatives"]
"""For each row of a source, the rows whose positives are its negatives."""


@dataclass(frozen=True, eq=False)
class WithNegatives(Sequence[Texts]):
    """The rows of a source, each with its own negatives followed by the mined ones."""

    rows: Sequence[Texts]
    negatives: NegativeRows
    places: Indices | None = None
    """The rows that have mined negatives, in ascending order; None if all have."""

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, row: int) -> Texts: ...

    @overload
    def __getitem__(self, row: slice) -> list[Texts]: ...

    def __getitem__(self, row: int | slice) -> Texts | list[Texts]:
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        return (*self.rows[row], *(self.rows[other][1] for other in self._mined(row) if other != NONE))

    def _mined(self, row: int) -> list[int]:
        place = row if self.places is None else int(np.searchsorted(self.places, row))
        if self.places is not None and (place == len(self.places) or self.places[place] != row):
            return []
        found: list[int] = self.negatives[place].tolist()
        return found


class Refreshed:
    """The training data with the negatives of the newest search, or without any before the first search."""

    def __init__(
        self,
        data: TrainingData,
        config: TrainConfig,
        folder: RunFolder,
        sampler: Sampler | None = None,
        *,
        is_main: bool,
        stop: int | None = None,
    ) -> None:
        assert config.mining.every is not None
        self.data = data
        self._unmined = data
        self._config, self._every = config.mining, config.mining.every
        self._folder, self._checkpoints, self._keep = folder.negatives, folder.checkpoints, config.checkpoint.keep
        self._seed, self._is_main = config.seed, is_main
        self._sampler, self._stop = sampler, stop

    def due(self, step: int) -> bool:
        """Whether a search comes before `step`."""
        return step > 0 and step % self._every == 0

    def resume(self, step: int) -> None:
        """Read the negatives that a run had when it stopped before `step`. UserError if they are missing."""
        if self._last(step) > 0 and not self.due(step):
            self._read(self._last(step))

    def search(self, encoder: Encoder, step: int) -> None:
        """Mine with the current model on the main process, while the other processes wait."""
        if self._is_main:
            results = [
                self._search(number, encoder, step)
                for number, table in enumerate(self._unmined.tables)
                if table.kind == "pairs"
            ]
            self._write(step, [part for result in results for part in result])
            full = np.concatenate([(rows != NONE).all(axis=1) for *_, rows in results])
            _log.info("step %d: %.0f %% of the pairs have all mined negatives", step, 100 * full.mean())
        sum_over_ranks(torch.zeros(1, device=encoder.device))
        self._read(step)

    def _search(self, number: int, encoder: Encoder, step: int) -> tuple[Indices, NegativeRows] | tuple[NegativeRows]:
        """The negatives of a source; of a streamed one those of the rows of the next steps, after these rows."""
        source, table = self._unmined.sources[number], self._unmined.tables[number]
        seed = (self._seed + step) % 2**62
        if not source.streaming:
            return (mine_source(table, source, encoder, self._config, seed=seed),)
        places = self._coming(number, step)
        if not len(places):
            return places, np.full((0, self._config.negatives), NONE, dtype=np.int64)
        some = table.keep(places.tolist())
        mined = mine_source(some, source, encoder, self._config, seed=seed)
        return places, np.where(mined == NONE, NONE, places[mined])

    def _coming(self, number: int, step: int) -> Indices:
        """The rows of a source in the steps until the next search."""
        assert self._sampler is not None
        stop = step + self._every if self._stop is None else min(step + self._every, self._stop)
        rows = np.unique(np.concatenate([self._sampler.rows(at) for at in range(step, stop)]))
        first = sum(self._unmined.sizes[:number])
        found: Indices = rows[(rows >= first) & (rows < first + self._unmined.sizes[number])] - first
        return found

    def _write(self, step: int, results: Sequence[np.ndarray]) -> None:
        path, buffer = self._path(step), io.BytesIO()
        np.savez(buffer, *results)
        try:
            self._folder.mkdir(exist_ok=True)
            atomic_write_bytes(path, buffer.getvalue())
        except OSError as error:
            raise UserError(f"cannot write {path}: {why_not_written(error)}") from error
        oldest = self._last(min(self._resumable(), default=step))
        for old in self._folder.glob("step-*.npz"):
            if _step_of(old) < oldest:
                with contextlib.suppress(OSError):
                    old.unlink()

    def _resumable(self) -> list[int]:
        """Steps of the checkpoints from which a killed run may resume."""
        steps = sorted(map(_step_of, self._checkpoints.glob("step-*")))
        return steps[-self._keep :]

    def _last(self, step: int) -> int:
        """The step of the newest search up to `step`."""
        return step // self._every * self._every

    def _read(self, step: int) -> None:
        try:
            with np.load(self._path(step)) as file:
                results = iter([file[name] for name in file.files])
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self._path(step)}: the mined negatives of this run cannot be read; restore the file, or use "
                "checkpoint.resume fresh"
            ) from error
        tables = []
        for source, table in zip(self._unmined.sources, self._unmined.tables, strict=True):
            if table.kind == "pairs":
                places = next(results) if source.streaming else None
                table = replace(table, texts=WithNegatives(table.texts, next(results), places))
            tables.append(table)
        self.data = replace(self._unmined, tables=tuple(tables))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.npz"


def mine_source(
    table: SourceTable, source: SourceConfig, encoder: Encoder, config: MiningConfig, *, seed: int
) -> NegativeRows:
    """For each row of `table`, the rows whose positives are hard negatives for the encoder."""
    anchors, positives = [row[0] for row in table.texts], [row[1] for row in table.texts]
    corpus = distinct(positives)
    material = material_from_pairs(source.path, anchors, positives, [row[2:] for row in table.texts], corpus)
    view = encoder.embedder.view

    def embed(texts: Sequence[str], *, document: bool, task: str | None = None) -> Float32[np.ndarray, "texts dim"]:
        prompt = source.document_prompt if document else source.query_prompt
        side: Side = "document" if document else "query"
        options = EncodeOptions(prompt, side=side, progress=False, task=task)
        return unit_rows(encoder.encode_views(texts, [view], options)[view])

    selection = Selection(
        count=config.negatives,
        min_rank=config.min_rank,
        max_rank=config.max_rank,
        rules=Rules(config.margin, config.ratio),
        choice=config.choice,
        seed=seed,
    )
    instructions = Instructions(
        [query for query, _ in table.instructions],
        {text: own[1] for text, own in zip(reversed(positives), reversed(table.instructions), strict=False)},
    )
    vectors = embed_all(embed, anchors, positives, corpus, instructions)
    mined, _, _ = mine(material, vectors, Judges(), selection)
    first = {same(text): row for row, text in reversed(list(enumerate(positives)))}
    rows = np.array([first[same(text)] for text in corpus], dtype=np.int64)
    negative_rows = np.full((len(table), config.negatives), NONE, dtype=np.int64)
    for row, result in enumerate(mined):
        positions = [negative.position for negative in result.negatives]
        negative_rows[row, : len(positions)] = rows[positions]
    return negative_rows


def make_refreshed(
    config: TrainConfig,
    data: TrainingData,
    folder: RunFolder,
    sampler: Sampler | None = None,
    *,
    is_main: bool,
    stop: int | None = None,
) -> Refreshed | None:
    """None without `mining.every`; UserError for pairs that leave nothing to mine.

    For streamed sources `sampler` tells which rows come next, up to the step `stop`.
    """
    if config.mining.every is None:
        return None
    for table in data.tables:
        if table.kind == "pairs" and not _have_two(row[1] for row in table.texts):
            raise UserError("mining.every: a source has only one positive and thus no negatives; remove it")
    return Refreshed(data, config, folder, sampler, is_main=is_main, stop=stop)


def _have_two(texts: Iterable[str]) -> bool:
    """Whether two of the texts differ in more than case and spacing."""
    keys = filter(None, map(same, texts))
    first = next(keys, None)
    return any(key != first for key in keys)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
