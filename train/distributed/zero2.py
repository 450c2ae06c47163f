"""DeepSpeed ZeRO-2: AdamW's moments in equal parts, one for each process; the weights stay whole on all of them.

A process steps the part that is its own, and all gather the weights. Texts go through the module itself, not through
DeepSpeed's engine.
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


class PartitionedAdamW(DeepSpeedAdamW):
    """AdamW whose moments lie in parts."""

    def __init__(self, module: nn.Module, whole: AdamW, limit: float) -> None:
        """As the base class's; gradients are clipped to `limit`. UserError for weights in 16 bits."""
        weights: list[nn.Parameter] = whole.param_groups[0]["params"]
        check_trained(weights)
        super().__init__(module, whole, settings(sum(weight.numel() for weight in weights), limit, {"stage": 2}))
        if not torch.equal(self._own(self._weights), self._part.detach()):
            found = importlib.metadata.version("deepspeed")
            raise UserError(f"deepspeed {found}: divides weights in another way; install {OLDEST}")

    @contextlib.contextmanager
    def reduced_once(self) -> Iterator[None]:
        """As the base class's; all processes bring the same weights' gradients."""
        with super().reduced_once():
            yield
            for weight in self._weights:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)

    def grad_norm(self) -> Tensor:
        """As the base class's."""
        norm: Tensor = self._engine.optimizer.scaled_global_norm()
        return torch.where(norm < 0, torch.full_like(norm, math.nan), norm)  # DeepSpeed's mark is -1

    def moments(self) -> list[dict[str, Tensor]]:
        """As the base class's; one part at a time on devices."""
        state = self._adamw.state.get(self._part, {})
        whole = {key: self._gathered(state[key]) for key in MOMENTS if state}
        if not state or dist.get_rank() != 0:
            return []
        step: Tensor = state["step"]
        return [
            {"step": step.clone(), **{key: whole[key][index] for key in MOMENTS}} for index in range(len(self._weights))
        ]

    @torch.no_grad()
    def restore(self, states: Mapping[int, Mapping[str, Tensor]]) -> None:
        """As the base class's."""
        self._part.copy_(self._own(self._weights))
        if not states:
            return
        check_moments(states, [weight.shape for weight in self._weights])
        moments = {key: self._own([states[index][key] for index in range(len(self._weights))]) for key in MOMENTS}
        self._adamw.state[self._part] = {"step": states[0]["step"].to(self._part.device), **moments}

    @property
    def _part(self) -> Float[Tensor, " part"]:
        """This process's weights, which DeepSpeed has put in the place of all."""
        (part,) = self._adamw.param_groups[0]["params"]
        found: Tensor = part
        return found

    def _own(self, tensors: Sequence[Tensor]) -> Float[Tensor, " part"]:
        """This process's part of whole tensors: all numbers in one row, zeros behind them, cut into equal parts."""
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
