"""Ranks that train copies of the same weights: a checksum shows when the copies are no longer equal.

A broken device, or a collective that gave ranks different sums, would otherwise stay unnoticed for days: the loss still
falls, but the gradients of the other ranks do not belong to the weights that rank 0 saves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from dec2vec.errors import TryAgain
from train.distributed.collectives import gather_rows, world_size

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_replicas_equal(replicas: Mapping[str, Tensor], step: int) -> None:
    """Compare tensors of which every rank has a copy; TryAgain on all ranks if some differ, with step and ranks."""
    if world_size() == 1 or not replicas:
        return
    sums, _ = gather_rows(checksums(replicas)[None])
    if not bool((sums == sums[0]).all()):
        raise TryAgain(f"step {step}: {_difference(sums, list(replicas))}")


def checksums(tensors: Mapping[str, Tensor]) -> Int[Tensor, " tensor"]:
    """The sum of each tensor's bits, read as integers, modulo 2^64: one pass and no copy."""
    return torch.stack([_bits(tensor).sum(dtype=torch.int64) for tensor in tensors.values()])


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().view(_INTEGERS[tensor.element_size()])


def _difference(sums: Int[Tensor, "rank tensor"], names: list[str]) -> str:
    """Which ranks differ from the majority (from rank 0 and its equals in a tie), and in which tensor first."""
    rows = [tuple(row) for row in sums.tolist()]
    majority = Counter(rows).most_common(1)[0][0]
    odd = [rank for rank, row in enumerate(rows) if row != majority]
    name = names[int((sums != sums.new_tensor(majority)).any(dim=0).nonzero()[0])]
    ranks = f"rank {odd[0]}" if len(odd) == 1 else f"ranks {', '.join(map(str, odd))}"
    return (
        f"the trained weights of {ranks} of {len(rows)} differ from those of the others, first in {name}; no "
        "checkpoint contains them, and the same command resumes from the last one; if it happens again, check the "
        "devices of these ranks"
    )
