"""The common beginning of a batch's texts (instruction, prompt, BOS), run once a step with its gradient.

The beginning's keys, values and states are computed once with their graph, and detached copies are made of them. All
chunks read the copies, at which the chunks' gradients add up, in float32 also where the copies have 16 bits; at the end
the sums go back through the one graph. By the chain rule, this gives the gradient of running the beginning with every
text.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.shared_prefix import SharedPrefix
from train.distributed.interface import Engine


@dataclass(frozen=True, eq=False)
class PrefixGradient:
    """What chunks read: detached `copies` of the `originals` that have a graph, in the same order."""

    shared: SharedPrefix | None
    """None without a common beginning."""
    originals: list[Tensor]
    copies: list[Tensor]
    """In float32; chunks read them in the dtype of the originals."""

    @classmethod
    def read(cls, embedder: Embedder, ids: Int[Tensor, " prefix"] | None) -> PrefixGradient:
        """Run the beginning with its graph; without one there is nothing to read or to back-propagate."""
        if ids is None:
            return cls(None, [], [])
        prefix = embedder.read_prefix(ids, [embedder.view])
        originals: list[Tensor] = []
        copies: list[Tensor] = []

        def copied(tensor: Tensor) -> Tensor:
            originals.append(tensor)
            copies.append(summing(tensor).requires_grad_(tensor.requires_grad))
            return copies[-1].to(tensor.dtype)

        cache = DynamicCache()
        for layer in prefix.cache.layers:
            if layer.is_initialized:
                copy = DynamicLayer()
                copy.lazy_initialization(layer.keys, layer.values)
                copy.keys, copy.values = copied(layer.keys), copied(layer.values)
                cache.layers.append(copy)
        states = {index: copied(state) for index, state in prefix.states.items()}
        return cls(SharedPrefix(prefix.length, cache, states), originals, copies)

    @property
    def leaves(self) -> list[Tensor]:
        """The copies at which chunks leave a gradient."""
        return [copy for copy in self.copies if copy.requires_grad]

    def backward(self, model: Engine) -> None:
        """Back-propagate the gradients that the chunks have left at the copies to the weights."""
        if self.shared is None:
            return
        pairs = [(original, copy.grad) for original, copy in zip(self.originals, self.copies, strict=True)]
        reached = [(original, gradient.to(original.dtype)) for original, gradient in pairs if gradient is not None]
        model.back_propagate_beginning([original for original, _ in reached], [gradient for _, gradient in reached])


def summing(tensor: Tensor) -> Tensor:
    """A detached copy in a dtype in which many small gradients add up: of 16 bits in float32, others as they are."""
    return tensor.detach().float() if tensor.element_size() < 4 else tensor.detach()
