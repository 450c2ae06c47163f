"""Ranks train a copy each of the same weights; a checksum shows when these are no longer the same.

A broken device or a collective that gave ranks different sums would otherwise go on for days: the loss falls all the
same, and what is saved is rank 0's copy of what fits no other rank's gradient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor
from torch.distributed.tensor import DTensor

from dec2vec.errors import TryAgain
from train.distributed.collectives import gather_rows, world_size
from train.distributed.zero3 import is_parted

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_replicas_equal(tensors: Mapping[str, Tensor], step: int) -> None:
    """Compare all ranks' trained tensors by checksum; when they differ, TryAgain on every rank names step and ranks.

    Tensors that are sharded over ranks have no second copy that they could differ from, and are left out.
    """
    copies = {
        name: tensor for name, tensor in tensors.items() if not (isinstance(tensor, DTensor) or is_parted(tensor))
    }
    if world_size() == 1 or not copies:
        return
    everyone, _ = gather_rows(checksums(copies)[None])
    if not bool((everyone == everyone[0]).all()):
        raise TryAgain(f"step {step}: {_difference(everyone, list(copies))}")


def checksums(tensors: Mapping[str, Tensor]) -> Int[Tensor, " tensor"]:
    """The sum of each tensor's bits, read as integers, modulo 2^64: one pass and no copy."""
    return torch.stack([_bits(tensor).sum(dtype=torch.int64) for tensor in tensors.values()])


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().view(_INTEGERS[tensor.element_size()])


def _difference(everyone: Int[Tensor, "rank tensor"], names: list[str]) -> str:
    """What most ranks hold (rank 0 and its equals in a tie) is taken for right."""
    held = [tuple(row) for row in everyone.tolist()]
    usual = Counter(held).most_common(1)[0][0]
    odd = [rank for rank, row in enumerate(held) if row != usual]
    name = names[int((everyone != everyone.new_tensor(usual)).any(dim=0).nonzero()[0])]
    whose = f"rank {odd[0]}" if len(odd) == 1 else f"ranks {', '.join(map(str, odd))}"
    return (
        f"the trained weights of {whose} of {len(held)} differ from the others', first in {name}; no checkpoint holds "
        "them, and the same command goes on from the last one; if it comes again, look at those ranks' devices"
    )
