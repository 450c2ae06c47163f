"""One process: the embedder as it is, and AdamW over gradients that need no other process."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import AdamW

from dec2vec.decoder.embedder import Embedder
from train.distributed.interface import Engine, EngineOptimizer


class Single(Engine):
    """One process."""

    title = "one process"
    backward_is_local = True

    def __init__(self, embedder: Embedder, accelerator: Accelerator | None = None) -> None:
        super().__init__(embedder)
        if accelerator is not None:
            accelerator.prepare_model(embedder)  # moves it to its device

    def optimizer(self, adamw: AdamW, max_norm: float) -> EngineOptimizer:
        """AdamW itself."""
        return PlainAdamW(adamw, max_norm)


class PlainAdamW(EngineOptimizer):
    """torch's AdamW, over weights whose gradients the backward passes have already averaged."""

    def __init__(self, adamw: AdamW, max_norm: float) -> None:
        self.adamw = adamw
        self._max_norm = max_norm

    @property
    def parameter_count(self) -> int:
        return len(self._parameters)

    @property
    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.adamw.param_groups for parameter in group["params"]]

    def set_learning_rate(self, lr: float) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)

    def clip(self) -> Tensor:
        weights: list[Tensor] = self.adamw.param_groups[0]["params"]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        norm = self._whole(norm)
        torch.nn.utils.clip_grads_with_norm_(weights, self._max_norm, norm)
        return norm

    def step(self) -> None:
        """Update the parameters, and their versions for `train.kernels`, which fused AdamW does not count up.

        Experts that no text of the step used are updated as by a zero gradient, on however many processes.
        """
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.adamw.step()
        torch.autograd.graph.increment_version(self._parameters)

    def zero_grad(self) -> None:
        self.adamw.zero_grad(set_to_none=True)

    def tensors(self) -> dict[int, dict[str, Tensor]]:
        """The live tensors, not copies."""
        return dict(self.adamw.state_dict()["state"])

    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Devices and dtypes follow the parameters, as `load_state_dict` decides. ValueError for another shape."""
        stored = {index: self._stored(index, entry) for index, entry in state.items()}
        self.adamw.load_state_dict({"state": stored, "param_groups": self.adamw.state_dict()["param_groups"]})

    def _stored(self, index: int, entry: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parameter = self._parameters[index]
        for key, tensor in entry.items():
            if tensor.ndim and tensor.shape != parameter.shape:
                raise ValueError(f"{key} of parameter {index} has shape {tuple(tensor.shape)}")
        return {key: self._like(parameter, tensor) if tensor.ndim else tensor for key, tensor in entry.items()}

    def _whole(self, norm: Tensor) -> Tensor:
        """The norm over all shards, where there are any."""
        return norm

    def _like(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """The part of a whole `tensor` that belongs to this process's part of the parameter."""
        return tensor
