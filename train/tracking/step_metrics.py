"""The numbers of a step that go into `metrics.jsonl` and to the tracker, from plain values."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dec2vec.decoder.devices import peak_bytes


@dataclass(frozen=True)
class StepTotals:
    """Counts of a step over all ranks."""

    pairs: float
    real_tokens: float
    """Tokens without padding."""
    computed_tokens: float
    """Tokens with the padding that was computed."""
    rank_seconds: Sequence[float]
    """For each rank its seconds until its vectors were ready, before it waited for another rank."""


def step_metrics(
    totals: StepTotals,
    *,
    loss: float,
    lr: float,
    temperature: float,
    grad_norm: float,
    seconds: float,
    device: torch.device,
    skipped_steps: int,
) -> dict[str, float]:
    """The metrics of a step that took this process `seconds` seconds."""
    return {
        "loss": loss,
        "lr": lr,
        "temperature": temperature,
        "grad_norm": grad_norm,
        "pairs_per_second": totals.pairs / seconds,
        "tokens_per_second": totals.real_tokens / seconds,
        "padding_ratio": totals.computed_tokens / totals.real_tokens,
        "memory_mib": peak_memory_mib(device),
        "skipped_steps": float(skipped_steps),
        **rank_seconds(totals.rank_seconds),
    }


def rank_seconds(seconds: Sequence[float]) -> dict[str, float]:
    """Find stragglers: all ranks finish a step together, so each is timed up to its first collective.

    Nothing for a single rank, which waits for no other.
    """
    if len(seconds) < 2:
        return {}
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    return {
        "rank_seconds_median": statistics.median(seconds),
        "rank_seconds_max": seconds[slowest],
        "slowest_rank": float(slowest),
    }


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory of an accelerator's allocator, or of the process."""
    return peak_bytes(device) / 2**20
