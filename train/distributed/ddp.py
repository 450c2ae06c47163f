"""DistributedDataParallel: the order of its buckets, and one reduction a step."""

from __future__ import annotations

import torch
from torch.nn.parallel import DistributedDataParallel

from dec2vec.decoder.embedder import Embedder
from train.distributed.sharded import Sharded

Model = Embedder | DistributedDataParallel | Sharded


def settle_buckets(model: Model) -> None:
    """DDP's agreement on the order of its buckets, made by all ranks before a step's first pass.

    DDP itself makes it once, in the first forward with a graph after a backward. With ranks of several chunks that is
    before the gather of the vectors, with ranks of one chunk after it: each would wait for the other.
    """
    if isinstance(model, DistributedDataParallel):
        model.reducer._rebuild_buckets()


def arm(model: DistributedDataParallel) -> None:
    """The next backward pass reduces the gradients: what DDP's forward does for it outside `no_sync`."""
    model.reducer.prepare_for_forward()
    model.reducer.prepare_for_backward([])


def learn_order(model: DistributedDataParallel, embedder: Embedder) -> None:
    """Show DDP the order in which gradients come, by a pass that leaves none and draws nothing.

    It arranges its buckets by the first backward; from three ranks on a sum's rounding depends on a number's place in
    them. Learned from the first step, the step after a restart would be summed in another order than it was before.
    """
    device = next(embedder.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        ids = torch.zeros((1, 2), dtype=torch.long, device=device)
        (pooled,) = model(ids, torch.tensor([2], device=device))
        (pooled.sum() * 0.0).backward()
    model.zero_grad(set_to_none=True)
