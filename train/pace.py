"""Which rank is slow. A step lasts equally long on all of them, because they wait for each other.

So each notes how long it takes to its first meeting with the others, where its vectors are gathered: to fetch its texts
and embed them all. An engine that shards weights meets before every layer; then only the texts' share is a rank's own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from train.distributed.collectives import world_size
from train.losses.objective import Objective


class Timed:
    """The objective of a step, noting when it is called: when this rank's vectors are ready."""

    def __init__(self, objective: Callable[[Float[Tensor, "unique dim"]], Objective]) -> None:
        self._objective = objective
        self.called = time.monotonic()

    def __call__(self, embeddings: Float[Tensor, "unique dim"]) -> Objective:
        if embeddings.is_cuda and world_size() > 1:
            torch.cuda.synchronize(embeddings.device)  # the first gather would wait for it all the same
        self.called = time.monotonic()
        return self._objective(embeddings)


def pace(seconds: Sequence[float]) -> dict[str, float]:
    """Metrics of a step from all ranks' own seconds; nothing for a single rank, which waits for nobody."""
    if len(seconds) < 2:
        return {}
    slowest = max(range(len(seconds)), key=seconds.__getitem__)
    return {
        "rank_seconds_median": statistics.median(seconds),
        "rank_seconds_max": seconds[slowest],
        "slowest_rank": float(slowest),
    }
