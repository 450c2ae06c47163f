"""Collectives over ragged shares; each is the identity in a single process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes in this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather_rows(local: Tensor) -> tuple[Tensor, slice]:
    """Rows of every rank, concatenated in rank order, and where the local ones stand. No gradient flows."""
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


def from_main(value: float, device: torch.device) -> float:
    """The main process's `value`, on all processes."""
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    if world_size() > 1:
        dist.broadcast(shared, src=0)
    return float(shared)


def _row_counts(rows: int, device: torch.device) -> list[int]:
    mine = torch.tensor([rows], device=device)
    counts = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(counts, mine)
    return [int(count) for count in counts]
