"""A batch's common beginning (instruction, prompt, BOS) run once a step, with gradient.

The keys, values and states of the beginning are computed once with their graph and cut off from it. All chunks read
the cut copies, whose gradients add up over the chunks; at the end these go back through the one graph. It is the
chain rule at the cut, so the gradient is that of running the beginning with every text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.shared_prefix import SharedPrefix


@dataclass(frozen=True, eq=False)
class PrefixGradient:
    """What chunks read, and the tensors with a graph that it was cut from, in the same order as `cut`."""

    shared: SharedPrefix
    whole: list[Tensor]
    cut: list[Tensor]

    @classmethod
    def read(cls, embedder: Embedder, ids: Int[Tensor, " prefix"]) -> PrefixGradient:
        """Run the beginning with its graph."""
        read = embedder.read_prefix(ids, [embedder.view])
        whole: list[Tensor] = []
        cut: list[Tensor] = []

        def leaf(tensor: Tensor) -> Tensor:
            whole.append(tensor)
            cut.append(tensor.detach().requires_grad_(tensor.requires_grad))
            return cut[-1]

        cache = DynamicCache()
        for layer in read.cache.layers:
            if layer.is_initialized:
                copy = DynamicLayer()
                copy.lazy_initialization(layer.keys, layer.values)
                copy.keys, copy.values = leaf(layer.keys), leaf(layer.values)
                cache.layers.append(copy)
        states = {index: leaf(state) for index, state in read.states.items()}
        return cls(SharedPrefix(read.length, cache, states), whole, cut)

    @property
    def leaves(self) -> list[Tensor]:
        """What chunks leave a gradient at."""
        return [leaf for leaf in self.cut if leaf.requires_grad]

    def backward(self) -> None:
        """Hand what the chunks' backward passes left at the cut to the weights."""
        reached = [(tensor, leaf.grad) for tensor, leaf in zip(self.whole, self.cut, strict=True)]
        used = [(tensor, gradient) for tensor, gradient in reached if gradient is not None]
        if used:
            torch.autograd.backward([tensor for tensor, _ in used], [gradient for _, gradient in used])
