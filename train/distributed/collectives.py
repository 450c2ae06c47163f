"""Collectives over a batch's parts of unequal size; in a single process each returns what it was given."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes in this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first_process() -> bool:
    """Whether this is the launcher's first process; known before there is a process group."""
    return os.environ.get("RANK", "0") == "0"


def gather_rows(local: Tensor) -> tuple[Tensor, slice]:
    """The rows of all ranks, concatenated in rank order, and the slice of this rank's rows. No gradient flows."""
    if world_size() == 1:
        return local, slice(0, len(local))
    counts = _row_counts(len(local), local.device)
    widest = max(counts)
    padded = local.new_zeros((widest, *local.shape[1:]))
    padded[: len(local)] = local
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    start = sum(counts[: dist.get_rank()])
    rows = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return rows, slice(start, start + len(local))


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of `value` over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any rank; every rank gets the same answer."""
    return bool(sum_over_ranks(torch.tensor(int(flag), device=device)))


def from_main(value: float, device: torch.device) -> float:
    """The main process's `value`, on all processes."""
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    if world_size() > 1:
        dist.broadcast(shared, src=0)
    return float(shared)


def _row_counts(rows: int, device: torch.device) -> list[int]:
    local = torch.tensor([rows], device=device)
    counts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(counts, local)
    return [int(count) for count in counts]
