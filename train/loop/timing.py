"""How long a step takes, from a few chunks that are run and timed, and from one loss and one update.

    costs = StepCosts.measure(run, batches)
    costs.seconds(batch, graph_tokens=5000)

The learning rate is 0 meanwhile, so that no weight changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dec2vec.batching import Chunk, ChunkCost, chunk_cost
from dec2vec.runtime import flushed
from train.data.batch import LocalBatch
from train.distributed.interface import Engine, Pass
from train.gradcache.cached_step import fitting_graphs
from train.gradcache.chunk_passes import InTurn, chunk_passes
from train.gradcache.prefix import PrefixGradient
from train.gradcache.threads import fitting_threads
from train.state import Run
from train.step import batch_loss

_PLACES = (0.1, 0.5, 0.9)
"""Where among all tokens, in the order of their chunks' widths, the chunks lie that are timed."""


@dataclass(frozen=True)
class ChunkCosts:
    """Seconds a token by the width of its chunk, whose tokens count as `cost` says."""

    widths: NDArray[np.float64]
    first: NDArray[np.float64]
    """The pass that gives the vectors."""
    second: NDArray[np.float64]
    """The pass that has a graph, and the way back."""
    cost: ChunkCost

    def seconds(self, chunk: Chunk, *, keep_graph: bool) -> float:
        """One chunk in a step, embedded twice unless it keeps its graph."""
        costs = self.second if keep_graph else self.first + self.second
        per_token = float(np.interp(chunk.input_ids.shape[1], self.widths, costs))
        return per_token * self.cost.of(chunk.padded_tokens)


@dataclass(frozen=True)
class StepCosts:
    """What a step takes: its chunks, and what does not depend on them."""

    chunks: ChunkCosts
    rest: float
    """Loss, update, weights that are merged anew, and the common beginning of all texts."""

    def seconds(self, batch: LocalBatch, graph_tokens: int) -> float:
        """The step of `batch`, if so many tokens keep their graph."""
        keeps = fitting_graphs(batch.chunks, graph_tokens)
        passes = zip(batch.chunks, keeps, strict=True)
        return self.rest + sum(self.chunks.seconds(chunk, keep_graph=keep) for chunk, keep in passes)

    @classmethod
    def measure(cls, run: Run, batches: Sequence[LocalBatch]) -> StepCosts:
        """Time chunks of typical widths, and the rest of the first of the steps."""
        learner = run.learner
        learner.optimizer.set_learning_rate(0.0)
        timed = [_Timed.of(batch, number) for batch, number in typical_chunks(batches)]
        with flushed():
            timed[0].run(learner.model)  # a first pass is slower
            passes = [item.run(learner.model) for item in timed]
            _update(run)  # makes the moments
            rest = _seconds(lambda: _update(run)) + _loss_seconds(run, batches[0])
            merging = timed[0].run(learner.model)[0] - passes[0][0]
            beginning = _seconds(lambda: _read_beginning(learner.model, batches[0]))
        learner.optimizer.zero_grad()
        cost = chunk_cost(run.encoder.device)
        first, second = (
            np.array([item[at] / cost.of(part.tokens) for item, part in zip(passes, timed, strict=True)])
            for at in (0, 1)
        )
        widths = np.array([float(item.chunk.input_ids.shape[1]) for item in timed])
        return cls(ChunkCosts(widths, first, second, cost), rest + max(0.0, merging) + beginning)


@dataclass(frozen=True, eq=False)
class _Timed:
    """A chunk as it runs in its step, perhaps beside others in threads."""

    chunk: Chunk
    batch: LocalBatch

    @classmethod
    def of(cls, batch: LocalBatch, number: int) -> _Timed:
        return cls(batch.chunks[number], batch)

    @property
    def tokens(self) -> int:
        return self.chunk.padded_tokens

    def run(self, model: Engine) -> tuple[float, float]:
        """Seconds of the pass without a graph, and of the one with a graph and the way back."""
        beginning = PrefixGradient.read(model.embedder, self.batch.prefix)
        side_by_side = fitting_threads(model, len(self.batch.chunks))
        runner = chunk_passes(model, beginning, len(self.batch.chunks), side_by_side)
        rows = Chunk(torch.arange(len(self.chunk.rows)), self.chunk.input_ids, self.chunk.lengths)
        first = _seconds(lambda: runner.embed([Pass(rows, keep_graph=False)] * side_by_side))
        second = _seconds(lambda: _there_and_back(runner, [Pass(rows, keep_graph=True)] * side_by_side))
        return first / side_by_side, second / side_by_side


def typical_chunks(batches: Sequence[LocalBatch]) -> list[tuple[LocalBatch, int]]:
    """A few chunks, by batch and number, whose widths are those of the chunks that most tokens are in."""
    chunks = [(batch, number) for batch in batches for number in range(len(batch.chunks))]
    chunks.sort(key=lambda place: place[0].chunks[place[1]].input_ids.shape[1])
    until = np.cumsum([batch.chunks[number].padded_tokens for batch, number in chunks])
    found = {int(np.searchsorted(until, part * until[-1])) for part in _PLACES}
    widths: dict[int, tuple[LocalBatch, int]] = {}
    for place in sorted(found):
        batch, number = chunks[place]
        widths.setdefault(batch.chunks[number].input_ids.shape[1], (batch, number))
    return list(widths.values())


def _there_and_back(runner: InTurn, passes: Sequence[Pass]) -> None:
    embedded = runner.embed(passes)
    vectors = embedded[0].pooled
    runner.back_propagate(embedded, torch.ones_like(vectors, requires_grad=False) / vectors.shape[1])


def _read_beginning(model: Engine, batch: LocalBatch) -> None:
    beginning = PrefixGradient.read(model.embedder, batch.prefix)
    for leaf in beginning.leaves:
        leaf.grad = torch.zeros_like(leaf)
    beginning.backward(model)


def _loss_seconds(run: Run, batch: LocalBatch) -> float:
    """The loss of a batch with vectors drawn at random."""
    rows, device = sum(len(chunk.rows) for chunk in batch.chunks), batch.chunks[0].input_ids.device
    view = run.learner.model.forward(Chunk(*(part[:1] for part in _parts(batch.chunks[0]))))
    vectors = torch.randn(rows, view.shape[1], device=device)
    loss = batch_loss(run.learner, batch, run.config)
    return _seconds(lambda: loss(vectors))


def _parts(chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return chunk.rows, chunk.input_ids, chunk.lengths


def _update(run: Run) -> None:
    """One update at a rate of 0, by the gradients that are there."""
    learner = run.learner
    learner.optimizer.clip()
    projection = None if learner.matrix is None else torch.zeros_like(learner.matrix)
    learner.update(torch.zeros_like(learner.temperature.log_value), projection)


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - began
