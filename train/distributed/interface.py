"""What a training step, a checkpoint and the run need of an engine and of its optimizer.

An engine decides how the decoder runs on the processes of a run: `Single`, `Ddp`, `Fsdp2`, `Zero2` or `Zero3`. The
rest of the trainer calls these methods and asks these properties; it never asks which engine it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from torch.optim import AdamW

from dec2vec.batching import Chunk
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.shared_prefix import SharedPrefix
from train.config import LoraConfig


@dataclass(frozen=True)
class Pass:
    """One chunk that a step runs forward and backward."""

    chunk: Chunk
    keep_graph: bool
    """Whether the first forward pass keeps its graph; otherwise the chunk is embedded a second time."""
    is_padding: bool = False
    """Whether the pass only serves to make as many passes as the other ranks; its gradient is zero."""


class EngineOptimizer(ABC):
    """AdamW over the trained weights, over log(temperature) if that is learned, and over a projection of the loss.

    Parameters are numbered in the order of `parameter_count`: weights first, then the temperature, then the projection.
    """

    @property
    @abstractmethod
    def parameter_count(self) -> int:
        """Trained tensors, temperature and projection included."""

    @abstractmethod
    def set_learning_rate(self, lr: float) -> None:
        """Use this learning rate in the next `step`; a group with an `lr_factor` uses that many times the rate."""

    def one_reduction(self) -> AbstractContextManager[None]:
        """Within, backward passes add up; the ranks' gradients are averaged once, at the end or before."""
        return nullcontext()

    @abstractmethod
    def clip(self) -> Tensor:
        """Limit the gradient of the weights to `optim.max_grad_norm`, and return its norm before that."""

    @abstractmethod
    def step(self) -> None:
        """Update the parameters."""

    @abstractmethod
    def zero_grad(self) -> None:
        """Forget all gradients."""

    @abstractmethod
    def tensors(self) -> dict[int, dict[str, Tensor]]:
        """AdamW's state by parameter; nothing for parameters that were never updated.

        Where processes hold a part each, all of them must call this, and only the main one gets the state.
        """

    @abstractmethod
    def restore(self, state: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Continue from what `tensors` returned; call it after the weights have been restored."""


class Engine(ABC):
    """The trained embedder, on the processes of this run."""

    title: ClassVar[str]
    """Its name in messages."""
    holds_whole_weights: ClassVar[bool] = True
    """Whether every process has a copy of all weights."""
    passes_are_collective: ClassVar[bool] = False
    """Whether a forward or backward pass needs every process, so that all must make the same ones."""
    checkpoints_are_collective: ClassVar[bool] = False
    """Whether every process must take part in writing a checkpoint."""
    backward_is_local: ClassVar[bool] = False
    """Whether a backward pass only adds to this process's `.grad`, so that autograd may be called in any other way."""
    why_prefix_not_shared: ClassVar[str | None] = None
    """Why a prompt can't be run once for all texts of a training step; None if it can."""

    def __init__(self, embedder: Embedder, accelerator: Accelerator | None = None) -> None:
        self.embedder = embedder

    @classmethod
    def adapters(cls, config: LoraConfig) -> LoraConfig:
        """`config` without what this engine can't run."""
        return config

    @classmethod
    def loading_config(cls, config: ModelConfig) -> ModelConfig:
        """`config` with the device that the weights are read to before the engine takes them over."""
        return config

    @abstractmethod
    def optimizer(self, adamw: AdamW, max_norm: float) -> EngineOptimizer:
        """What updates the parameters of `adamw`, whose first group holds the weights of the embedder."""

    def passes(self, chunks: Sequence[Chunk], keep_graphs: Sequence[bool]) -> list[Pass]:
        """The passes of a step, agreed upon by all processes where they are collective. Called before the first one."""
        return [Pass(chunk, keep) for chunk, keep in zip(chunks, keep_graphs, strict=True)]

    def forward(self, chunk: Chunk, prefix: SharedPrefix | None = None) -> Float[Tensor, "batch dim"]:
        """The vectors of a chunk."""
        pooled: Tensor = self.embedder(chunk.input_ids, chunk.lengths, prefix=prefix)[0]
        return pooled

    def begin_backward(self, *, last: bool) -> None:  # noqa: B027  # most engines have nothing to prepare
        """Called before each backward pass of a step, and before the second forward pass that it may need.

        `last` announces the backward pass after which the gradients must be averaged over the ranks.
        """

    def back_propagate_beginning(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """The last backward pass of a step in which this process's texts share a beginning: from its `tensors`."""
        self.begin_backward(last=True)
        if tensors:
            torch.autograd.backward(list(tensors), list(gradients))

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a trained tensor, or of its gradient, on every process. All processes must call this."""
        return tensor

    @torch.no_grad()
    def whole_on_main(self, tensors: Mapping[str, Tensor], *, is_main: bool) -> dict[str, Tensor]:
        """Whole tensors on the main process, made one at a time; nothing on the others, which must all call this."""
        kept: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            whole = self.whole(tensor)
            if is_main:
                kept[name] = whole if whole is tensor else whole.cpu()
        return kept

    @torch.no_grad()
    def overwrite(self, parameter: Tensor, whole: Tensor) -> None:
        """Set a trained parameter to the tensor `whole`, which every process has read."""
        parameter.copy_(whole)

    def replicas(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the trained tensors of which every process has a copy, which must be equal."""
        return dict(tensors)
