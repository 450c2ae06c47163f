"""`dec2vec train mine.yaml --plan`: what a run will do, take and cost, without training.

    plan = make_plan(run, dev_texts)
    print("\n".join(plan.lines(left_open(given, run.config))))

The batches of some steps are made as the run will make them, and a few of their chunks are run and timed. The figures
are for this machine as busy as it is now.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch

from dec2vec.encoder import Encoder
from dec2vec.runtime import flushed
from train.data.batch import LocalBatch
from train.gradcache.cached_step import fitting_graphs
from train.gradcache.graph_budget import GraphBudget, Needs
from train.gradcache.memory import file_bytes
from train.loop.batches import RunBatches
from train.loop.timing import StepCosts
from train.state import Run
from train.step import train_step
from train.tracking.step_metrics import peak_memory_mib

SAMPLED_STEPS = 12
"""Steps whose batches are looked at, evenly spread over the run."""
SAMPLED_TEXTS = 64
"""Dev texts that are encoded and timed."""
WHOLE_STEPS = 4
"""Steps that are run as a whole if none takes longer than `SHORT_STEP` seconds."""
SHORT_STEP = 3.0
_MIB = 2**20


@dataclass(frozen=True)
class Plan:
    """The figures of a whole run, from its first step to its last."""

    rows: int
    sources: int
    steps: int
    epochs: float
    pairs: float
    """A step's, as the tokens and chunks below: means over the steps that were looked at."""
    tokens: float
    padding: float
    """The part of the computed tokens that is padding."""
    chunks: float
    chunk_tokens: int
    """At most, as `batch.chunk_tokens auto` has settled."""
    kept: int
    """Tokens of the largest step whose graph is kept."""
    peak_mib: float
    step_seconds: float
    dev_runs: int
    dev_texts: int
    dev_seconds: float
    """One evaluation."""

    @property
    def train_seconds(self) -> float:
        """All steps, without dev."""
        return self.steps * self.step_seconds

    @property
    def seconds(self) -> float:
        """Steps and dev evaluations."""
        return self.train_seconds + self.dev_runs * self.dev_seconds

    def lines(self, settled: Iterable[tuple[str, object]]) -> Iterator[str]:
        """The plan for people, with the options that were left open, by name and value."""
        sources = "1 source" if self.sources == 1 else f"{self.sources} sources"
        yield f"rows     {self.rows:,} in {sources}"
        yield f"steps    {self.steps:,} of {self.pairs:,.0f} rows, {self.epochs:.2f} epochs"
        yield (
            f"tokens   {self.steps * self.tokens:,.0f}; {self.tokens:,.0f} a step in {self.chunks:.0f} chunks; "
            f"{100 * self.padding:.1f} % of what is computed is padding"
        )
        yield f"memory   {self.peak_mib:,.0f} MiB at most; the graphs of {self.kept:,} tokens are kept"
        yield f"chunks   of at most {self.chunk_tokens:,} tokens"
        yield f"time     {_clock(self.seconds)}; {self.step_seconds:.2f} s a step"
        yield self._dev_line()
        yield from (f"option   {option} is {value}" for option, value in settled)

    def _dev_line(self) -> str:
        if not self.dev_runs:
            return "dev      none"
        share = 100 * self.dev_runs * self.dev_seconds / max(self.seconds, 1e-9)
        times = "once" if self.dev_runs == 1 else f"{self.dev_runs} times"
        return f"dev      {self.dev_texts:,} texts, {times}, {self.dev_seconds:.1f} s each: {share:.0f} % of the time"


def make_plan(run: Run, dev_texts: Sequence[str]) -> Plan:
    """Look at the batches of some steps, and time some of their chunks and of the texts that dev encodes."""
    total, model = run.learner.total_steps, run.learner.model
    making = RunBatches(run, ahead=False)
    with making:
        began = time.perf_counter()
        batches = [making.batch(step) for step in _spread(total, SAMPLED_STEPS)]
        preparing = (time.perf_counter() - began) / len(batches)
    largest = max(batches, key=lambda batch: batch.padded_tokens)
    needs = Needs.measure(model, largest.chunks)
    room = GraphBudget(model, largest.chunks, run.config.batch.graph_tokens).room()
    kept = _kept(largest, room)
    costs = StepCosts.measure(run, batches)
    predicted = [costs.seconds(batch, room) for batch in batches]
    computing = float(np.mean(predicted)) * _by_whole_steps(run, batches, predicted, room)
    tokens, padded = (float(np.mean([getattr(batch, name) for batch in batches])) for name in _TOKENS)
    every = run.config.eval.every
    return Plan(
        rows=len(run.data),
        sources=len(run.data.sources),
        steps=total,
        epochs=total / run.sampler.steps_per_epoch,
        pairs=float(np.mean([batch.pairs for batch in batches])),
        tokens=tokens,
        padding=1 - tokens / padded,
        chunks=float(np.mean([len(batch.chunks) for batch in batches])),
        chunk_tokens=making.chunk_tokens,
        kept=kept,
        peak_mib=_peak_mib(needs, kept, run.encoder.device),
        step_seconds=_beside_preparing(computing, preparing, run.encoder.device),
        dev_runs=total // every + bool(total % every) if dev_texts else 0,
        dev_texts=len(dev_texts),
        dev_seconds=_dev_seconds(run.encoder, dev_texts),
    )


_TOKENS = "real_tokens", "padded_tokens"


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, the first and the last among them."""
    return sorted({int(number) for number in np.linspace(0, count - 1, min(count, most)).round()})


def _kept(batch: LocalBatch, room: int) -> int:
    keeps = fitting_graphs(batch.chunks, room)
    return sum(chunk.padded_tokens for chunk, keep in zip(batch.chunks, keeps, strict=True) if keep)


def _peak_mib(needs: Needs, kept: int, device: torch.device) -> float:
    """As the metric `memory_mib` counts it: on a CPU with the pages of libraries, and with what loading took."""
    pages = file_bytes() if device.type == "cpu" else 0
    return max(peak_memory_mib(device), (needs.rest + kept * needs.token + pages) / _MIB)


def _by_whole_steps(run: Run, batches: Sequence[LocalBatch], predicted: Sequence[float], room: int) -> float:
    """Where steps are short, what is between their chunks counts: some are run as a whole, and the factor is returned.

    They change weights that nobody will read.
    """
    if max(predicted) > SHORT_STEP:
        return 1.0
    taken = []
    for step, batch in enumerate(batches[:WHOLE_STEPS]):
        began = time.perf_counter()
        with flushed():
            train_step(run.learner, batch, step, run.config, graph_tokens=room)
        taken.append(time.perf_counter() - began)
    later = slice(1, None) if len(taken) > 1 else slice(None)  # a first step is slower
    return float(np.sum(taken[later]) / np.sum(predicted[:WHOLE_STEPS][later]))


def _beside_preparing(computing: float, preparing: float, device: torch.device) -> float:
    """The next batch is made while a step runs: for nothing, unless that takes longer or all cores are in use."""
    busy = device.type == "cpu" and torch.get_num_threads() >= len(os.sched_getaffinity(0))
    return max(preparing, computing + (preparing / torch.get_num_threads() if busy else 0.0))


def _dev_seconds(encoder: Encoder, texts: Sequence[str]) -> float:
    """Encoding all texts, from the time that some of them take."""
    if not texts:
        return 0.0
    distinct = list(dict.fromkeys(texts))
    lengths = np.array([len(ids) for ids in encoder.tokenize(distinct)])
    sample = _spread(len(distinct), SAMPLED_TEXTS)
    began = time.perf_counter()
    encoder.encode([distinct[number] for number in sample], normalize=False, progress=False)
    return (time.perf_counter() - began) * float(lengths.sum() / lengths[sample].sum())


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
