"""The numbers of a step over all ranks, and which rank is slow."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Sequence

import torch

from train.data.batch import LocalBatch
from train.distributed.collectives import sum_over_ranks
from train.state import Run
from train.step import StepResult


def rank_seconds(seconds: Sequence[float]) -> dict[str, float]:
    """Metrics of a step from all ranks' own seconds; nothing for a single rank, which waits for nobody."""
    if len(seconds) < 2:
        return {}
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    return {
        "rank_seconds_median": statistics.median(seconds),
        "rank_seconds_max": seconds[slowest],
        "slowest_rank": float(slowest),
    }


def record_step(run: Run, batch: LocalBatch, result: StepResult, started: float) -> int:
    """Log the step; its pairs over all processes."""
    seconds = time.monotonic() - started
    own = [result.embedded_at - started if rank == run.rank else 0.0 for rank in range(run.world)]
    end_to_end = run.encoder.embedder.unpadded and batch.prefix is None
    computed = batch.real_tokens if end_to_end else batch.padded_tokens
    counts = [batch.pairs, batch.real_tokens, computed, *own]
    summed = sum_over_ranks(torch.tensor(counts, dtype=torch.float64, device=run.encoder.device))
    pairs, real, padded, *ranks = summed.tolist()
    if not run.is_main or run.state.step % run.config.tracking.every:
        return int(pairs)
    metrics = {
        "loss": result.loss,
        "lr": result.lr,
        "temperature": result.temperature,
        "grad_norm": result.grad_norm,
        "pairs_per_second": pairs / seconds,
        "tokens_per_second": real / seconds,
        "padding_ratio": padded / real,
        "memory_mib": _peak_memory_mib(run.encoder.device),
        "skipped_steps": float(run.state.skipped_steps),
        **rank_seconds(ranks),
    }
    run.metrics.append(metrics, run.state.step)
    run.tracker.log(metrics, run.state.step)
    return int(pairs)


def _peak_memory_mib(device: torch.device) -> float:
    """Peak of the allocator on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
