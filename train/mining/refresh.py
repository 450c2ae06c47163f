"""Hard negatives that follow the model: searched anew every n steps by the model itself (ANCE, Xiong et al. 2021).

What was found is a number of a row for each row, on disk under the step that it was found at: a run that is resumed
between two searches reads it again, and one that is killed in a search repeats it with the same weights.
"""

from __future__ import annotations

import contextlib
import io
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Float32, Int64

from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_bytes, why_not_written
from dec2vec.prompts.prompt import Side
from dec2vec.vectors.averaging import unit_rows
from train.checkpointing.run_folder import RunFolder
from train.config import MiningConfig, SourceConfig, TrainConfig
from train.data.dataset import TrainingData
from train.data.table import SourceTable, Texts
from train.distributed.collectives import sum_over_ranks
from train.mining.args import MineArgs
from train.mining.encoders import embed_all
from train.mining.pairs import different, material_of, same
from train.mining.search import Judges, mine

_log = logging.getLogger(__name__)
NONE = -1
"""Where a row has fewer negatives than were wanted."""
Found = Int64[np.ndarray, "rows negatives"]
"""For each row of a source the rows whose positives are its negatives."""


@dataclass(frozen=True, eq=False)
class WithNegatives(Sequence[Texts]):
    """The rows of a source, each with the mined negatives behind its own."""

    rows: Sequence[Texts]
    found: Found

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, row: int) -> Texts: ...

    @overload
    def __getitem__(self, row: slice) -> list[Texts]: ...

    def __getitem__(self, row: int | slice) -> Texts | list[Texts]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        return (*self.rows[row], *(self.rows[other][1] for other in self.found[row].tolist() if other != NONE))


class Refreshed:
    """The training data with the negatives of the newest search; before the first, as they are."""

    def __init__(self, data: TrainingData, config: TrainConfig, folder: RunFolder, *, is_main: bool) -> None:
        assert config.mining.every is not None
        self.data = data
        self._own = data
        self._config, self._every = config.mining, config.mining.every
        self._folder, self._checkpoints, self._keep = folder.negatives, folder.checkpoints, config.checkpoint.keep
        self._seed, self._is_main = config.seed, is_main

    def due(self, step: int) -> bool:
        """Whether a search comes before `step`."""
        return step > 0 and step % self._every == 0

    def resume(self, step: int) -> None:
        """The negatives that a run had when it stopped before `step`; UserError where they are gone."""
        if self._last(step) > 0 and not self.due(step):
            self._read(self._last(step))

    def search(self, encoder: Encoder, step: int) -> None:
        """Find them with the model as it is: on the main process, while the others wait."""
        if self._is_main:
            found = [
                refreshed(table, source, encoder, self._config, seed=(self._seed + step) % 2**62)
                for source, table in zip(self._own.sources, self._own.tables, strict=True)
                if table.kind == "pairs"
            ]
            self._write(step, found)
            full = np.concatenate([(rows != NONE).all(axis=1) for rows in found])
            _log.info("step %d: %.0f %% of the pairs have all mined negatives", step, 100 * full.mean())
        sum_over_ranks(torch.zeros(1, device=encoder.device))
        self._read(step)

    def _write(self, step: int, found: Sequence[Found]) -> None:
        path, buffer = self._path(step), io.BytesIO()
        np.savez(buffer, *found)
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
        """Steps of the checkpoints that a killed run may go on from."""
        steps = sorted(map(_step_of, self._checkpoints.glob("step-*")))
        return steps[-self._keep :]

    def _last(self, step: int) -> int:
        """The step of the newest search at `step`."""
        return step // self._every * self._every

    def _read(self, step: int) -> None:
        try:
            with np.load(self._path(step)) as file:
                found = iter([file[name] for name in file.files])
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self._path(step)}: the negatives that the run went on with can't be read; put the file back, or use "
                "--checkpoint.resume fresh"
            ) from error
        tables = [
            replace(table, texts=WithNegatives(table.texts, next(found))) if table.kind == "pairs" else table
            for table in self._own.tables
        ]
        self.data = replace(self._own, tables=tuple(tables))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.npz"


def refreshed(table: SourceTable, source: SourceConfig, encoder: Encoder, config: MiningConfig, *, seed: int) -> Found:
    """Rows whose positives are hard for each row of `table`, as the encoder sees them now; at most `negatives`."""
    anchors, positives = [row[0] for row in table.texts], [row[1] for row in table.texts]
    corpus = different(positives)
    material = material_of(source.path, anchors, positives, [row[2:] for row in table.texts], corpus)
    view = encoder.embedder.view

    def embed(texts: Sequence[str], *, document: bool) -> Float32[np.ndarray, "texts dim"]:
        prompt = source.document_prompt if document else source.query_prompt
        side: Side = "document" if document else "query"
        return unit_rows(encoder.encode_views(texts, [view], prompt=prompt, side=side, progress=False)[view])

    args = MineArgs(
        pairs=source.path,
        model="",
        output=Path(),
        negatives=config.negatives,
        min_rank=config.min_rank,
        max_rank=config.max_rank,
        choice=config.choice,
        margin=config.margin,
        ratio=config.ratio,
        seed=seed,
    )
    mined, _, _ = mine(material, embed_all(embed, anchors, positives, corpus), Judges(), args)
    first = {same(text): row for row, text in reversed(list(enumerate(positives)))}
    rows = np.array([first[same(text)] for text in corpus], dtype=np.int64)
    found = np.full((len(table), config.negatives), NONE, dtype=np.int64)
    for row, item in enumerate(mined):
        places = [negative.position for negative in item.negatives]
        found[row, : len(places)] = rows[places]
    return found


def make_refreshed(config: TrainConfig, data: TrainingData, folder: RunFolder, *, is_main: bool) -> Refreshed | None:
    """None unless `mining.every` asks for it; UserError where there is nothing to mine for."""
    if config.mining.every is None:
        return None
    if not any(table.kind == "pairs" for table in data.tables):
        raise UserError("mining.every: only pairs get negatives, and no source has any; leave it out")
    if config.batch.no_duplicates:
        raise UserError("mining.every: mined negatives are positives of other rows, which batch.no_duplicates forbids")
    small = next(
        (table for table in data.tables if table.kind == "pairs" and len(different(row[1] for row in table.texts)) < 2),
        None,
    )
    if small is not None:
        raise UserError("mining.every: a source has one positive only, and no negative for it; leave it out")
    if config.mining.min_rank + config.mining.negatives > config.mining.max_rank + 1:
        raise UserError(
            f"mining.negatives {config.mining.negatives}: more than the window of ranks {config.mining.min_rank} to "
            f"{config.mining.max_rank} holds; raise --mining.max_rank"
        )
    return Refreshed(data, config, folder, is_main=is_main)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
