"""Weights in shards (FSDP2): what holds them, and whole tensors from shards and back.

A checkpoint holds whole tensors, whatever engine wrote it, so that any engine and any number of processes reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from dec2vec.embedder import Embedder


class Sharded(nn.Module):
    """An embedder whose weights lie in shards and are gathered unit by unit (a decoder block, the rest).

    Every process must make the same passes, since each gathers. With `gathered_once`, weights stay gathered from a
    step's first pass to its last (`fsdp_reshard_after_forward: false`): one gather a step, at the price of memory.
    """

    def __init__(self, embedder: Embedder, *, gathered_once: bool) -> None:
        super().__init__()
        assert isinstance(embedder, FSDPModule)
        self.module = embedder
        self.gathered_once = gathered_once
        register_fsdp_forward_method(embedder, "read_prefix")

    def forward(self, *args: Any, **kwargs: Any) -> list[Float[Tensor, "batch dim"]]:
        """As the embedder's."""
        pooled: list[Tensor] = self.module(*args, **kwargs)
        return pooled

    def begin_backward(self, *, last: bool) -> None:
        """Only a step's last backward pass reduces the gradients; until then each process sums its own."""
        module = self.module
        assert isinstance(module, FSDPModule)
        module.set_requires_gradient_sync(last)
        module.set_is_last_backward(last)
        if self.gathered_once:
            module.set_reshard_after_backward(last)


def is_sharded(module: nn.Module) -> bool:
    """Whether the weights of an embedder, or of what wraps it, lie in shards."""
    return isinstance(module, (Sharded, FSDPModule))


def whole(tensor: Tensor) -> Tensor:
    """The tensor that the processes hold shards of, on each of them; others as they are. A collective for shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_on_main(tensors: Mapping[str, Tensor], *, is_main: bool) -> dict[str, Tensor]:
    """Whole tensors on the main process, one after the other; nothing on the others, which all must call this."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = whole(tensor)
        if is_main:
            kept[name] = found.cpu() if isinstance(tensor, DTensor) else found
    return kept


def sharded_like(model: Tensor, tensor: Tensor) -> Tensor:
    """This process's shard of a whole tensor that every process has read, laid out as `model` is."""
    if not isinstance(model, DTensor):
        return tensor
    moved = tensor.to(device=model.device, dtype=model.dtype)
    return distribute_tensor(moved, model.device_mesh, model.placements, src_data_rank=None)


@torch.no_grad()
def overwrite(parameter: Tensor, tensor: Tensor) -> None:
    """Put the whole `tensor` into a parameter, sharded or not."""
    parameter.copy_(sharded_like(parameter, tensor))
