"""What FSDP2 and ZeRO-3 have in common: each process holds a shard of every weight.

Weights are gathered for each pass, so that a pass is a collective and all ranks must make equally many. A checkpoint
holds whole tensors whatever engine wrote it, so that any engine on any number of processes can read it.
"""

from __future__ import annotations

import dataclasses
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from dec2vec.batching import Chunk
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.embedder import Embedder
from train.config import LoraConfig
from train.distributed.collectives import is_first_process, world_size
from train.distributed.interface import Engine, Pass

_log = logging.getLogger(__name__)


class Sharded(Engine):
    """Weights in shards."""

    holds_whole_weights = False
    passes_are_collective = True
    checkpoints_are_collective = True
    why_prefix_not_shared = "the weights are sharded, and gathered for whole passes only"

    def __init__(self, embedder: Embedder, accelerator: Accelerator | None = None) -> None:
        super().__init__(embedder, accelerator)
        embedder.passes_are_collective = True

    @classmethod
    def adapters(cls, config: LoraConfig) -> LoraConfig:
        """Without fused kernels: they merge weights, and the merged ones would be as large as unsharded ones."""
        if not config.fused or config.method == "full":
            return config
        if is_first_process():
            _log.info("lora.fused is disabled, because it needs an unsharded copy of every weight")
        return dataclasses.replace(config, fused=False)

    @classmethod
    def loading_config(cls, config: ModelConfig) -> ModelConfig:
        """Weights are read to the CPU before they are sharded, so that no device must hold them all."""
        needs_device = config.load_in_4bit or config.attention == "flash_attention_2"
        return config if needs_device else dataclasses.replace(config, device="cpu")

    def passes(self, chunks: Sequence[Chunk], keep_graphs: Sequence[bool]) -> list[Pass]:
        """As many passes as the rank with the most chunks; one keeps its graph if it does so on every rank."""
        return pad_passes(super().passes(chunks, keep_graphs))

    def replicas(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that are not sharded, such as the temperature."""
        return {name: tensor for name, tensor in tensors.items() if not self.is_shard(tensor)}

    @abstractmethod
    def is_shard(self, tensor: Tensor) -> bool:
        """Whether this process holds only a part of the tensor."""


def pad_passes(passes: Sequence[Pass]) -> list[Pass]:
    """The passes, followed by ones with a single text up to the largest number of any rank."""
    if world_size() == 1:
        return list(passes)
    first = passes[0].chunk
    device = first.input_ids.device
    most = torch.tensor(len(passes), device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    padding = int(most) - len(passes)
    keeps = [item.keep_graph for item in passes] + [True] * padding
    kept = torch.tensor(keeps, dtype=torch.int32, device=device)
    dist.all_reduce(kept, dist.ReduceOp.MIN)
    spare = Pass(Chunk(first.rows[:1], first.input_ids[:1], first.lengths[:1]), keep_graph=True, is_padding=True)
    padded = [*passes, *[spare] * padding]
    return [dataclasses.replace(item, keep_graph=keep) for item, keep in zip(padded, kept.bool().tolist(), strict=True)]
