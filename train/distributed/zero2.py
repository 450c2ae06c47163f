"""DeepSpeed ZeRO-2: AdamW's moments in equal parts, one for each process; every process keeps all weights.

A process updates its own part of the weights, and all parts are gathered. Texts go through the module itself, not
through DeepSpeed's engine.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW

from dec2vec.errors import UserError
from train.distributed.deepspeed import MOMENTS, OLDEST, DeepSpeedAdamW, check_moments, check_trained, settings
from train.distributed.interface import Engine, EngineOptimizer


class Zero2(Engine):
    """The embedder as it is; its optimizer averages the gradients over the ranks."""

    title = "ZeRO-2"
    backward_is_local = True
    checkpoints_are_collective = True
    why_prefix_not_shared = "it isn't proved equal under ZeRO-2"

    def optimizer(self, adamw: AdamW, max_norm: float) -> EngineOptimizer:
        return PartitionedAdamW(self.embedder, adamw, max_norm)


class PartitionedAdamW(DeepSpeedAdamW):
    """AdamW whose moments are divided between the processes.

    UserError for weights in 16 bits, and if DeepSpeed divides weights in another way than this class expects.
    """

    def __init__(self, module: nn.Module, adamw: AdamW, max_norm: float) -> None:
        weights: list[nn.Parameter] = adamw.param_groups[0]["params"]
        check_trained(weights)
        numbers = sum(weight.numel() for weight in weights)
        super().__init__(module, adamw, max_norm, settings(numbers, max_norm, {"stage": 2}))
        if not torch.equal(self._part_of(self._weights), self._part.detach()):
            version = importlib.metadata.version("deepspeed")
            raise UserError(f"deepspeed {version} partitions weights differently; install {OLDEST}")

    @contextlib.contextmanager
    def one_reduction(self) -> Iterator[None]:
        """As the base class; every process brings a gradient of every weight."""
        with super().one_reduction():
            yield
            for weight in self._weights:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)

    def clip(self) -> Tensor:
        norm: Tensor = self._engine.optimizer.scaled_global_norm()
        return torch.where(norm < 0, torch.full_like(norm, math.nan), norm)  # DeepSpeed gives -1 if it isn't finite

    def _moments(self) -> list[dict[str, Tensor]]:
        """As the base class; one part at a time on devices."""
        state = self._adamw.state.get(self._part, {})
        gathered = {key: self._gathered(state[key]) for key in MOMENTS if state}
        if not state or dist.get_rank() != 0:
            return []
        step: Tensor = state["step"]
        return [
            {"step": step.clone(), **{key: gathered[key][index] for key in MOMENTS}}
            for index in range(len(self._weights))
        ]

    @torch.no_grad()
    def _restore_moments(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        self._part.copy_(self._part_of(self._weights))
        if not state:
            return
        check_moments(state, [weight.shape for weight in self._weights])
        moments = {key: self._part_of([state[index][key] for index in range(len(self._weights))]) for key in MOMENTS}
        self._adamw.state[self._part] = {"step": state[0]["step"].to(self._part.device), **moments}

    @property
    def _part(self) -> Float[Tensor, " part"]:
        """This process's weights, which DeepSpeed has substituted for all of them in `_adamw`."""
        (parameter,) = self._adamw.param_groups[0]["params"]
        part: Tensor = parameter
        return part

    def _part_of(self, tensors: Sequence[Tensor]) -> Float[Tensor, " part"]:
        """This process's part of whole tensors: all numbers in one row, padded with zeros, cut into equal parts."""
        part = torch.zeros_like(self._part, requires_grad=False)
        first, last, at = dist.get_rank() * len(part), (dist.get_rank() + 1) * len(part), 0
        for tensor in tensors:
            begin, end = max(first, at), min(last, at + tensor.numel())
            if begin < end:
                part[begin - first : end - first] = tensor.detach().flatten()[begin - at : end - at]
            at += tensor.numel()
        return part

    def _gathered(self, part: Float[Tensor, " part"]) -> list[Tensor]:
        """Whole tensors, shaped as the weights, in the main process's host memory; one part at a time on devices."""
        parts = []
        for rank in range(dist.get_world_size()):
            received = part if rank == dist.get_rank() else torch.empty_like(part)
            dist.broadcast(received, src=rank)
            if dist.get_rank() == 0:
                parts.append(received.cpu())
        if not parts:
            return []
        sizes = [weight.numel() for weight in self._weights]
        pieces = torch.split_with_sizes(torch.cat(parts)[: sum(sizes)], sizes)
        return [piece.view(weight.shape) for piece, weight in zip(pieces, self._weights, strict=True)]
