"""FSDP2: weights, gradients and AdamW's moments in shards.

Weights are gathered one unit at a time: a decoder block, or everything outside the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW

from dec2vec.batching import Chunk
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.layers import decoder_blocks
from dec2vec.errors import UserError
from train.distributed.interface import EngineOptimizer, Pass
from train.distributed.sharded import Sharded
from train.distributed.single import PlainAdamW


class Fsdp2(Sharded):
    """An embedder whose units torch shards and gathers."""

    title = "FSDP2"

    def __init__(self, embedder: Embedder, accelerator: Accelerator) -> None:
        super().__init__(embedder)
        plugin = _plugin(accelerator)
        _shard(embedder, accelerator, plugin)
        self._gathered_once = plugin.reshard_after_forward is False
        register_fsdp_forward_method(embedder, "read_prefix")

    def optimizer(self, adamw: AdamW, max_norm: float) -> EngineOptimizer:
        """AdamW, each process on its shards."""
        return Fsdp2AdamW(adamw, max_norm)

    def passes(self, chunks: Sequence[Chunk], keep_graphs: Sequence[bool]) -> list[Pass]:
        """As the base class; what the last step ended with is undone."""
        self.begin_backward(last=False)
        return super().passes(chunks, keep_graphs)

    def begin_backward(self, *, last: bool) -> None:
        """Reduce the gradients in the last backward pass only; until then each process adds up its own.

        With `fsdp_reshard_after_forward: false` weights stay gathered from the first pass of a step to the last: one
        gather a step, at the price of memory.
        """
        module = self.embedder
        assert isinstance(module, FSDPModule)
        module.set_requires_gradient_sync(last)
        module.set_is_last_backward(last)
        if self._gathered_once:
            module.set_reshard_after_backward(last)

    def whole(self, tensor: Tensor) -> Tensor:
        return whole_tensor(tensor)

    @torch.no_grad()
    def overwrite(self, parameter: Tensor, whole: Tensor) -> None:
        parameter.copy_(shard_like(parameter, whole))

    def is_shard(self, tensor: Tensor) -> bool:
        return isinstance(tensor, DTensor)


class Fsdp2AdamW(PlainAdamW):
    """AdamW over shards."""

    def _whole(self, norm: Tensor) -> Tensor:
        return whole_tensor(norm)

    def _like(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        return shard_like(parameter, tensor)


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor that the processes hold shards of; other tensors as they are. A collective for shards."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(parameter: Tensor, whole: Tensor) -> Tensor:
    """This process's shard of a tensor that every process has read, laid out as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return whole
    moved = whole.to(device=parameter.device, dtype=parameter.dtype)
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _shard(embedder: Embedder, accelerator: Accelerator, plugin: FullyShardedDataParallelPlugin) -> None:
    """Shard as Accelerate's plugin says; a unit is a decoder block unless the plugin names other modules."""
    from accelerate.utils import fsdp2_prepare_model
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    blocks = decoder_blocks(embedder.backbone, embedder.layer_count)
    if plugin.auto_wrap_policy is transformer_auto_wrap_policy and not plugin.transformer_cls_names_to_wrap:
        names = set() if blocks is None else {type(block).__name__ for block in blocks}
        plugin.transformer_cls_names_to_wrap = sorted(names)
    try:
        fsdp2_prepare_model(accelerator, embedder)
    except ValueError as error:
        raise UserError(f"FSDP2: {str(error).splitlines()[0]}") from error


def _plugin(accelerator: Accelerator) -> FullyShardedDataParallelPlugin:
    """Accelerate's plugin; on CPUs Accelerate reads the settings but makes none, so that it is made here."""
    if "fsdp_plugin" not in vars(accelerator.state):
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    plugin: FullyShardedDataParallelPlugin = accelerator.state.fsdp_plugin
    return plugin
