"""DistributedDataParallel: every process has all weights, and gradients are averaged once a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from dec2vec.batching import Chunk
from dec2vec.decoder.devices import random_numbers_put_back
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.gradient_reach import weights_that_texts_skip
from dec2vec.decoder.shared_prefix import SharedPrefix
from train.distributed.interface import Engine, EngineOptimizer, Pass
from train.distributed.single import PlainAdamW


class Ddp(Engine):
    """An embedder wrapped in DDP, whose own mechanism averages the gradients in a step's last backward pass.

    All forward passes run inside `no_sync`; before the last backward pass DDP is armed as its forward pass would arm
    it outside of `no_sync`. So the last chunk, too, may keep its graph from the first forward pass.
    """

    title = "DDP"

    def __init__(self, embedder: Embedder, accelerator: Accelerator) -> None:
        super().__init__(embedder)
        self._not_always = weights_that_texts_skip(embedder)
        self.wrapped: DistributedDataParallel = accelerator.prepare_model(embedder)
        self.wrapped.broadcast_buffers = False  # they are equal on all ranks; as an argument deprecated in torch 2.13
        self._learn_bucket_order()

    def optimizer(self, adamw: AdamW, max_norm: float) -> EngineOptimizer:
        """AdamW itself: every process makes the same update."""
        return PlainAdamW(adamw, max_norm)

    def passes(self, chunks: Sequence[Chunk], keep_graphs: Sequence[bool]) -> list[Pass]:
        """Let DDP agree on the order of its buckets before the first pass of a step, on all ranks.

        Left alone it does so once, in the first forward pass with a graph after a backward pass. On a rank with several
        chunks that comes before the vectors are gathered, on a rank with one chunk after it, and each would wait for
        the other.
        """
        self.wrapped.reducer._rebuild_buckets()
        return super().passes(chunks, keep_graphs)

    def forward(self, chunk: Chunk, prefix: SharedPrefix | None = None) -> Float[Tensor, "batch dim"]:
        """The vectors of a chunk; DDP prepares no reduction."""
        with self.wrapped.no_sync():
            pooled: Tensor = self.wrapped(chunk.input_ids, chunk.lengths, prefix=prefix)[0]
        return self._reaching_all(pooled)

    def begin_backward(self, *, last: bool) -> None:
        """Have the last backward pass reduce the gradients."""
        if last:
            self.wrapped.reducer.prepare_for_forward()
            self.wrapped.reducer.prepare_for_backward([])

    def back_propagate_beginning(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """As the base class. DDP waits for all weights, though the beginning does not depend on all of them."""
        weights = [weight for weight in self.embedder.parameters() if weight.requires_grad]
        nothing = _nothing_of(weights)
        super().back_propagate_beginning([*tensors, nothing], [*gradients, torch.zeros_like(nothing)])

    def _learn_bucket_order(self) -> None:
        """Show DDP in which order gradients come, by a pass that leaves no gradient and draws no random number.

        DDP arranges its buckets by the first backward pass, and from three ranks on a sum is rounded depending on where
        a number stands in its bucket. If the first step did this, the step after a restart would be summed in another
        order than in an uninterrupted run.
        """
        device = next(self.embedder.parameters()).device
        with random_numbers_put_back(device):
            ids = torch.zeros((1, 2), dtype=torch.long, device=device)
            (pooled,) = self.wrapped(ids, torch.tensor([2], device=device))
            torch.autograd.backward(self._reaching_all(pooled).sum() * 0.0)
        self.wrapped.zero_grad(set_to_none=True)

    def _reaching_all(self, pooled: Tensor) -> Tensor:
        """`pooled`, with a zero gradient for weights that the pass may have skipped, since DDP waits for all."""
        return pooled + _nothing_of(self._not_always) if self._not_always else pooled


def _nothing_of(weights: Sequence[Tensor]) -> Tensor:
    """0, which depends on the weights, with a zero gradient at each."""
    return torch.stack([weight.flatten()[:0].sum().float() for weight in weights]).sum()
