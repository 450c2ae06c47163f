"""Weights in shards (FSDP2, ZeRO-3): what holds them, and whole tensors from shards and back.

A checkpoint holds whole tensors, whatever engine wrote it, so that any engine and any number of processes reads it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from dec2vec.batching import Chunk
from dec2vec.decoder.embedder import Embedder
from train.distributed.collectives import world_size
from train.distributed.zero3 import is_parted, overwrite_whole, whole_weight

_COUNT = "ds_grads_remaining"


class Sharded(nn.Module, ABC):
    """An embedder whose weights lie in shards and are gathered as they are needed.

    Every process must make the same passes, since each gathers.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.module = embedder

    def forward(self, *args: Any, **kwargs: Any) -> list[Float[Tensor, "batch dim"]]:
        """As the embedder's."""
        pooled: list[Tensor] = self.module(*args, **kwargs)
        return pooled

    @abstractmethod
    def begin_backward(self, *, last: bool) -> None:
        """Told before a chunk's passes; `last` for the step's last backward pass and the forward that it may need."""


class ShardedByModules(Sharded):
    """Under ZeRO-3: gathered for each module by DeepSpeed's hooks, and given up after its backward pass.

    A hook knows its module's backward pass to be over by a count that each forward pass sets and the backward pass runs
    down to zero. Where the graphs of several chunks are kept, the count is of the last one's; so it is set anew.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(embedder)
        self._counts: dict[nn.Module, int] = {}

    def forward(self, *args: Any, **kwargs: Any) -> list[Float[Tensor, "batch dim"]]:
        """As the embedder's."""
        pooled = super().forward(*args, **kwargs)
        if torch.is_grad_enabled():
            modules = {module: vars(module) for module in self.module.modules()}
            self._counts = {module: own[_COUNT] for module, own in modules.items() if _COUNT in own}
        return pooled

    def begin_backward(self, *, last: bool) -> None:
        """The same for every chunk; the optimiser knows when to reduce gradients."""
        for module, count in self._counts.items():
            vars(module)[_COUNT] = count


class ShardedByUnits(Sharded):
    """Under FSDP2: gathered unit by unit (a decoder block, the rest).

    With `gathered_once`, weights stay gathered from a step's first pass to its last (`fsdp_reshard_after_forward:
    false`): one gather a step, at the price of memory.
    """

    def __init__(self, embedder: Embedder, *, gathered_once: bool) -> None:
        super().__init__(embedder)
        assert isinstance(embedder, FSDPModule)
        self.gathered_once = gathered_once
        register_fsdp_forward_method(embedder, "read_prefix")

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
    return isinstance(module, (Sharded, FSDPModule)) or any(map(is_parted, islice(module.parameters(), 1)))


def whole(tensor: Tensor) -> Tensor:
    """The tensor that the processes hold shards of, on each of them; others as they are. A collective for shards."""
    if is_parted(tensor):
        return whole_weight(tensor)
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def whole_on_main(tensors: Mapping[str, Tensor], *, is_main: bool) -> dict[str, Tensor]:
    """Whole tensors on the main process, one after the other; nothing on the others, which all must call this."""
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = whole(tensor)
        if is_main:
            kept[name] = found if found is tensor else found.cpu()
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
    if is_parted(parameter):
        overwrite_whole(parameter, tensor)
    else:
        parameter.copy_(sharded_like(parameter, tensor))


def pad_passes(chunks: Sequence[Chunk], keeps: Sequence[bool]) -> tuple[list[Chunk], list[bool]]:
    """The chunks, followed by idle ones up to the largest number of any rank, and which keep their graph everywhere."""
    if world_size() == 1:
        return list(chunks), list(keeps)
    device = chunks[0].input_ids.device
    most = torch.tensor(len(chunks), device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    idle = int(most) - len(chunks)
    kept = torch.tensor([*keeps, *[True] * idle], dtype=torch.int32, device=device)
    dist.all_reduce(kept, dist.ReduceOp.MIN)
    shortest = chunks[0]
    spare = Chunk(shortest.rows[:1], shortest.input_ids[:1], shortest.lengths[:1])
    return [*chunks, *[spare] * idle], kept.bool().tolist()
