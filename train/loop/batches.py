"""The batches of a run, step by step, in chunks that fit into memory.

With `batch.chunk_tokens auto`, an accelerator gets the largest chunks whose graph takes at most two fifths of its free
memory. The number is written to `config.yaml`, so that a resumed run has the same chunks. A first step that runs out of
memory halves it.
"""

from __future__ import annotations

import dataclasses
import logging

import torch

from dec2vec.batching import Chunk
from dec2vec.config.load import dump
from dec2vec.encoder import Encoder
from dec2vec.prompts.prompt import NORMALIZERS
from dec2vec.runtime import give_back_freed_memory
from train.adapters.capabilities import why_not_shared
from train.data.batch import BatchOptions, LocalBatch, prepare
from train.data.prefetch import Prefetch
from train.data.sampler import OneSource, Sampler
from train.data.siblings import Siblings, find_siblings
from train.data.windows import Windows
from train.distributed.collectives import gather_rows
from train.gradcache.memory import PROBE_TOKENS, affordable_chunk, chunk_budget, free_bytes, token_bytes
from train.state import Run, TrainState

_PROBE_WIDTH = 32
_log = logging.getLogger(__name__)


class RunBatches(Prefetch):
    """The batches of `run`; the next one is made while a step runs. `ahead=False` makes each when it is needed."""

    def __init__(self, run: Run, *, ahead: bool = True) -> None:
        super().__init__(self._local, run.learner.total_steps, ahead=ahead)
        self._run = run
        self._options = batch_options(run)

    @property
    def chunk_tokens(self) -> int:
        """Padded tokens of a chunk, at most."""
        return self._options.chunk_tokens

    def halve_chunks(self, batch: LocalBatch) -> bool:
        """Use half as many tokens in a chunk from now on, and note it in `config.yaml`. False if a text needs them."""
        longest = max(chunk.input_ids.shape[1] for chunk in batch.chunks)
        tokens = max(chunk.padded_tokens for chunk in batch.chunks) // 2
        if tokens < longest:
            return False
        self.forget()
        self._options = dataclasses.replace(self._options, chunk_tokens=tokens)
        _log.warning("out of memory in the first step with chunks of %d tokens", 2 * tokens)
        _note_chunk_tokens(self._run, tokens)
        give_back_freed_memory()
        return True

    def why_no_memory(self, step: int) -> str:
        """The line with which a run ends for lack of memory, when no graph is kept any more."""
        tokens = self._options.chunk_tokens
        return (
            f"step {step}: out of memory with one chunk of {tokens:,} tokens at a time; use batch.chunk_tokens "
            f"{max(1, tokens // 2)} (the loss stays the same), and the same command goes on from the last checkpoint; "
            "if a single text is too long for that, lower model.max_length or add lora.gradient_checkpointing true "
            "in a new run"
        )

    def _local(self, step: int) -> LocalBatch:
        run = self._run
        data = run.data if run.refreshed is None else run.refreshed.data
        return prepare(data, run.sampler.rows(step), run.encoder, self._options)


def batch_options(run: Run) -> BatchOptions:
    """How the run makes its batches."""
    options, reason = run.config.batch, why_not_shared(run.learner.model)
    if run.is_main and options.share_prefix and reason is not None:
        _log.info("the tokens that all texts of a step begin with are computed for each text: %s", reason)
    siblings = find_siblings(run.data, NORMALIZERS[run.config.model.text_normalization])
    tell_of_siblings(run.state, siblings, is_main=run.is_main)
    tell_of_windows(run.state, run.sampler, is_main=run.is_main)
    return BatchOptions(
        chunk_tokens=settle_chunk_tokens(run),
        share_prefix=options.share_prefix and reason is None,
        losses=(run.config.loss,),
        teachers=run.teachers,
        siblings=siblings,
        token_source=run.token_source,
        rank=run.rank,
        world=run.world,
    )


def tell_of_siblings(state: TrainState, siblings: Siblings, *, is_main: bool) -> None:
    """Say once that a run of an earlier version goes on with other negatives, if its data make them differ."""
    if is_main and siblings and not state.knows_siblings:
        _log.warning(
            "the first %d steps were made by an earlier version, for which right answers in other rows were negatives; "
            "the next ones leave them out (one loss for the whole run: checkpoint.resume fresh)",
            state.step,
        )
    state.knows_siblings = True


def tell_of_windows(state: TrainState, sampler: Sampler, *, is_main: bool) -> None:
    """Say once that a run of an earlier version goes on in another order, if its streamed rows fill several windows."""
    parts = sampler.parts if isinstance(sampler, OneSource) else (sampler,)
    in_windows = any(isinstance(part, Windows) and part.count > 1 for part in parts)
    if is_main and in_windows and not state.knows_windows:
        _log.warning(
            "the first %d steps were made by an earlier version, which drew streamed rows in another order; in this "
            "epoch some may come twice and others not at all (one order for the whole run: checkpoint.resume fresh)",
            state.step,
        )
    state.knows_windows = True


def settle_chunk_tokens(run: Run) -> int:
    """The size of the run's chunks, no larger than has been noted in its state.

    On an accelerator, `auto` is found out when the run begins, and noted.
    """
    setting, state = run.config.batch.chunk_tokens, run.state
    if setting == "auto" and state.chunk_tokens is None and is_accelerator(run.encoder.device):
        tokens = affordable_chunk(token_bytes(run.learner.model, _probe(run.encoder)), free_bytes(run.encoder.device))
        everywhere, _ = gather_rows(torch.tensor([tokens], device=run.encoder.device))
        _note_chunk_tokens(run, int(everywhere.min()))
    wanted = chunk_budget(setting, run.encoder.device)
    return wanted if state.chunk_tokens is None else min(wanted, state.chunk_tokens)


def _note_chunk_tokens(run: Run, tokens: int) -> None:
    """In the state, which checkpoints hold, and for people in `config.yaml`."""
    run.state.chunk_tokens = tokens
    if run.is_main:
        _log.info("batch.chunk_tokens is %d, as is noted in config.yaml", tokens)
        batch = dataclasses.replace(run.config.batch, chunk_tokens=tokens)
        run.folder.write_config(dump(dataclasses.replace(run.config, batch=batch)))


def is_accelerator(device: torch.device) -> bool:
    """Whether memory, rather than the caches of a CPU, decides how large a chunk should be."""
    return device.type != "cpu"


def _probe(encoder: Encoder) -> Chunk:
    """A chunk of one token, over and over."""
    width = min(_PROBE_WIDTH, encoder.max_length)
    ids = torch.full((PROBE_TOKENS // width, width), encoder.tokenize(["a"])[0][-1], device=encoder.device)
    return Chunk(torch.arange(len(ids), device=ids.device), ids, torch.full((len(ids),), width, device=ids.device))
