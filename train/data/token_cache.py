"""Token ids of all training texts, which are computed once and then read from disk in every step.

    known = load_tokens(data, encoder, run_folder / "tokens")
    options = BatchOptions(1024, token_source=known)    # batches are the same as without `token_source`

The ids are in an Arrow file of `datasets`, which is mapped into memory. Its name is a hash of everything on which the
ids depend (tokenizer, prompts, lower case, maximum length, and the texts), so that a resumed run finds its file and
never another one. Processes on one machine or one shared disk wait for the first of them and map the same file.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from numpy.typing import NDArray

from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_path, remove_leftovers, why_not_written
from dec2vec.files.lock import locked
from dec2vec.prompts.prompt import NORMALIZERS, PUBLISHED, Side
from train.config import TrainConfig
from train.data.dataset import TrainingData
from train.data.prompted_input import PromptedInput, inputs_of, reading_keys, tokenized

_log = logging.getLogger(__name__)
BLOCK = 16_384
"""Number of texts whose token ids are in memory at the same time."""
MOST = 20_000_000
"""With more rows nothing is kept: one process would tokenize for hours while the others wait."""
FORMAT = 1
"""Increase it when the same text may get other ids, or when the format of the file changes."""


@dataclass(frozen=True, eq=False)
class TokenCache:
    """Row `rows[i]` of `table`, a data set of Arrow tables, has the ids of the input whose key is `keys[i]`."""

    keys: NDArray[np.int64]
    """Sorted."""
    rows: NDArray[np.int64]
    table: Any

    def of(self, readings: Sequence[PromptedInput]) -> list[list[int]] | None:
        """The token ids of these inputs; None if some of them are not training texts."""
        wanted = _keys(readings)
        places = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        if not np.array_equal(self.keys[places], wanted):
            return None
        found: list[list[int]] = self.table[self.rows[places]].column("ids").to_pylist() if len(wanted) else []
        return found


def keeps_tokens(config: TrainConfig, data: TrainingData, encoder: Encoder, steps: int) -> bool:
    """Whether a run of this many steps tokenizes its texts in advance.

    It does where layer 0 is pooled, so that a step is faster than the tokenizer, and where rows are used twice or more.
    """
    runs_no_block = max(encoder.embedder.wanted_layers([encoder.embedder.view])) == 0
    return runs_no_block and len(data) <= MOST and steps * config.batch.size >= 2 * len(data)


def known_tokens(
    config: TrainConfig, data: TrainingData, encoder: Encoder, folder: Path, steps: int
) -> TokenCache | None:
    """The token ids for a run of this many steps; None if each step tokenizes its own texts.

    If the ids cannot be kept (a full disk, or one without locks), a warning is logged and each step tokenizes.
    """
    if not keeps_tokens(config, data, encoder, steps):
        return None
    try:
        return load_tokens(data, encoder, folder)
    except UserError as error:
        _log.warning("%s; texts are tokenized in each step", error)
        return None


def load_tokens(data: TrainingData, encoder: Encoder, folder: Path) -> TokenCache:
    """The ids of all texts of `data`, computed now or by an earlier call; UserError if `folder` can't be written."""
    import datasets
    import pyarrow

    keys = np.concatenate([_keys(block) for block in _blocks(data, encoder)])
    _, first = np.unique(keys, return_index=True)
    is_first = np.zeros(len(keys), dtype=bool)
    is_first[first] = True
    path = folder / f"{_name(data, encoder, keys)}.arrow"
    try:
        with locked(folder):
            if not path.is_file():
                _log.info("computing the token ids of %s texts, cached in %s", f"{len(first):,}", folder)
                _write(path, data, encoder, is_first)
            table = datasets.Dataset.from_file(str(path)).with_format("arrow")
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is damaged; delete it, and it will be created again") from error
    except OSError as error:
        why = why_not_written(error)
        raise UserError(f"cannot cache token ids in {folder}: {why}") from error
    if len(table) != len(first):
        raise UserError(
            f"{path} is damaged: it has {len(table):,} of {len(first):,} rows; delete it, and it will be created again"
        )
    kept = keys[is_first]
    order = np.argsort(kept)
    return TokenCache(kept[order], order, table)


def _keys(readings: Sequence[PromptedInput]) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = reading_keys(readings).numpy()
    return keys


def _blocks(data: TrainingData, encoder: Encoder) -> Iterator[list[PromptedInput]]:
    normalize = NORMALIZERS[encoder.config.text_normalization]
    readings = (
        replace(item, text=normalize(item.text))
        for source, table in zip(data.sources, data.tables, strict=True)
        for item in inputs_of(source, table)
    )
    while block := list(islice(readings, BLOCK)):
        yield block


def _name(data: TrainingData, encoder: Encoder, keys: NDArray[np.int64]) -> str:
    """The name of the file: a digest of everything on which the ids depend."""
    config, tokenizer = encoder.config, encoder.tokenizer
    asked: set[tuple[str | None, Side]] = {(source.query_prompt, "query") for source in data.sources}
    asked |= {(source.document_prompt, "document") for source in data.sources}
    if config.prompt == PUBLISHED:
        asked |= {(source.query_prompt, "text") for source in data.sources}
    prompts = [repr(encoder.ensemble(prompt, side)) for prompt, side in sorted(asked, key=repr)]
    options = [config.prompt, config.task, config.text_normalization, config.tokenization, config.max_length]
    specials = [
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        version("tokenizers"),
        transformers.__version__,
        FORMAT,
    ]
    digest = hashlib.sha256(repr([prompts, options, specials]).encode("utf-8", "surrogatepass"))
    digest.update(tokenizer.backend_tokenizer.to_str().encode("utf-8", "surrogatepass"))
    digest.update(keys.tobytes())
    return digest.hexdigest()[:24]


def _write(path: Path, data: TrainingData, encoder: Encoder, wanted: NDArray[np.bool_]) -> None:
    """Write the file completely or not at all, and remove what earlier configurations and killed processes left."""
    remove_leftovers(path.parent)
    with atomic_path(path) as temporary:
        _fill(temporary, data, encoder, wanted)
        for old in path.parent.glob("*.arrow"):
            old.unlink()


def _fill(path: Path, data: TrainingData, encoder: Encoder, wanted: NDArray[np.bool_]) -> None:
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    with ArrowWriter(path=str(path), features=Features({"ids": List(Value("int32"))})) as writer:
        start = 0
        for block in _blocks(data, encoder):
            new = [reading for reading, is_new in zip(block, wanted[start : start + len(block)], strict=True) if is_new]
            if new:
                writer.write_batch({"ids": tokenized(new, encoder)})
            start += len(block)
        writer.finalize()
