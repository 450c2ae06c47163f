"""`dec2vec encode --shard_rows N`: embed a file of any size into a folder of shards, with row i for text i.

The texts and vectors of one shard are in memory at a time. The processes of torchrun share the shards without
communication: the folder shows which shards are done, so a run that was killed is simply started again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from dec2vec.config.model import EncodeOptions, ModelConfig
from dec2vec.corpus.image_inputs import Block, Source
from dec2vec.corpus.shards import INDEX, Index, Shard, is_done, shard_path, texts_digest, write_index, write_note
from dec2vec.corpus.vector_files import write_vectors
from dec2vec.errors import UserError
from dec2vec.files.atomic import remove_leftovers, sha256_file
from dec2vec.prompts.prompt import PUBLISHED
from dec2vec.runtime import bar_options

if TYPE_CHECKING:
    from dec2vec.encoder import Encoder

PIECE = 16_384
"""Number of texts that are embedded between two updates of the progress bar."""
_LOCATION = ("name_or_path", "revision", "trust_remote_code", "device", "max_pixels")
"""Options that say where the model is, whose digest counts instead, and what is refused."""


@dataclass(frozen=True)
class ShardWork:
    """What one of `world` processes does: it embeds every `world`-th shard, beginning with its rank."""

    source: Source
    output: Path
    shard_rows: int
    shard_format: str
    options: EncodeOptions
    normalize: bool
    rank: int
    world: int

    def owns(self, number: int) -> bool:
        """Whether this process embeds the shard."""
        return number % self.world == self.rank

    def digest(self, config: ModelConfig, weights: str) -> str:
        """One digest of all that a vector depends on besides its text, and of how the rows are cut into shards."""
        model = {key: value for key, value in dataclasses.asdict(config).items() if key not in _LOCATION}
        side = self.options.side
        if side == "text" and PUBLISHED not in (config.prompt, self.options.prompt):
            side = "query"  # they are the same but in published embedders, and earlier versions had no other name
        options = [self.options.prompt, side, self.normalize, self.shard_rows, self.shard_format]
        return hashlib.sha256(json.dumps([weights, model, options], sort_keys=True).encode()).hexdigest()


def check_shard_folder(output: Path) -> None:
    """UserError for an output that can't be a folder of shards."""
    if output.suffix in (".npy", ".parquet") or (output.exists() and not output.is_dir()):
        raise UserError(f"output {output}: --shard_rows writes a folder; give a folder (and --shard_format parquet)")
    if not output.parent.is_dir():
        raise UserError(f"output {output}: the folder {output.parent} does not exist; create it first")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise UserError(f"output {output}: the folder is not writable")


def encode_shards(work: ShardWork, encoder: Encoder, weights: str) -> None:
    """Embed the shards of this process. The last process to finish writes `index.json`."""
    rows = work.source.count()
    work.output.mkdir(exist_ok=True)
    count = -(-rows // work.shard_rows)
    digest = work.digest(encoder.config, weights)
    mine = sum(min(work.shard_rows, rows - n * work.shard_rows) for n in range(count) if work.owns(n))
    done, start = 0, time.monotonic()
    wanted: list[Shard] = []
    with _bar(work, mine) as bar:
        for block in work.source.blocks(work.shard_rows):
            texts = block.facts(with_paths=work.shard_format == "parquet")
            path = shard_path(work.output, len(wanted), f".{work.shard_format}")
            first = len(wanted) * work.shard_rows
            wanted.append(Shard(path.name, first, len(texts), 0, "", texts_digest(texts), digest))
            if not work.owns(len(wanted) - 1):
                continue
            if is_done(path, wanted[-1]):
                done += len(texts)
                bar.total = (bar.total or 0) - len(texts)  # the bar counts what is computed now
            else:
                _encode_shard(work, encoder, path, wanted[-1], block, bar)
    if len(wanted) != count:
        raise UserError(f"{work.source.path} changed while it was read; wait until it is complete")
    index = write_index(work.output, wanted)
    if work.world == 1:
        remove_leftovers(work.output)  # whether processes of other hosts are alive is not known here
    seconds = max(time.monotonic() - start, 1e-9)
    _report(work, index, mine, done, (mine - done) / seconds)


def _encode_shard(work: ShardWork, encoder: Encoder, path: Path, wanted: Shard, block: Block, bar: tqdm[Any]) -> None:
    """Write the vectors and then the note of a shard, after removing what an earlier attempt has left."""
    for leftover in path.parent.glob(f".{path.stem}.*.tmp*"):
        with contextlib.suppress(OSError):
            leftover.unlink()
    for outdated in (path.parent / INDEX, path.with_suffix(".json")):
        outdated.unlink(missing_ok=True)
    parts = []
    for start in range(0, len(block.texts), PIECE):
        piece = block.inputs[start : start + PIECE]
        parts.append(encoder.encode(piece, normalize=work.normalize, **vars(work.options)))
        bar.update(len(piece))
    if encoder.cut_texts is not None:
        encoder.cut_texts.settle()
    vectors = np.concatenate(parts)
    write_vectors(path, block.texts, vectors, block.images)
    dimension = int(vectors.shape[1])
    write_note(path, dataclasses.replace(wanted, dimension=dimension, sha256=sha256_file(path)))


def _bar(work: ShardWork, total: int) -> tqdm[Any]:
    """A progress bar for the first process of a machine over its own shards; the others take as long."""
    name = "encode" if work.world == 1 else f"encode (1 of {work.world} processes)"
    options = bar_options(shown=os.environ.get("LOCAL_RANK", "0") == "0")
    return tqdm(total=total, desc=name, unit="text", **options)


def _report(work: ShardWork, index: Index | None, mine: int, done: int, rate: float) -> None:
    if index is not None:
        size = f"{index.rows} vectors of {index.dimension} dimensions in {len(index.shards)} shards"
        sys.stderr.write(f"{size}: {work.output / INDEX}\n")
    share = "" if work.world == 1 else f"rank {work.rank}: "
    kind = "inputs" if work.source.has_images else "texts"
    sys.stderr.write(f"{share}{mine - done} {kind} embedded ({rate:.0f} per second), {done} existed already\n")
