"""A batch's common beginning (instruction, prompt, BOS) run once a step, with gradient.

The keys, values and states of the beginning are computed once with their graph and cut off from it. All chunks read
the cut copies, whose gradients add up over the chunks; at the end these go back through the one graph. It is the
chain rule at the cut, so the gradient is that of running the beginning with every text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from dec2vec.embedder import Embedder
from dec2vec.pooled_rows import checkpoints
from dec2vec.shared_prefix import WORTHWHILE, SharedPrefix, can_share, common_prefix
from train.distributed import world_size
from train.engine_sharded import is_sharded


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


def shared_beginning(ids: Sequence[Sequence[int]], embedder: Embedder) -> list[int]:
    """The tokens that all texts begin with, where running them once is worth it and gives the same gradient."""
    if len(ids) < 2 or len(shared := common_prefix(ids)) < WORTHWHILE or why_not_shared(embedder) is not None:
        return []
    return shared


def why_not_shared(embedder: Embedder) -> str | None:
    """What keeps this run from sharing a prompt between texts; None when nothing does."""
    if max(embedder.wanted_layers([embedder.view])) == 0:
        return "the input embeddings are pooled"
    if not can_share(embedder.backbone):
        return "sharing isn't proved equal for this decoder family"
    if is_sharded(embedder):
        return "the weights are sharded, and gathered for whole passes only"
    if world_size() > 1:
        return "gradients are reduced with the last chunk's"
    if drops(embedder.backbone):
        return "dropout draws a mask of its own for each text"
    if checkpoints(embedder.backbone):
        return "checkpointed blocks keep no keys and values"
    return None


_RATES = ("dropout", "attention_dropout", "attn_pdrop", "activation_dropout", "layerdrop", "hidden_dropout")
"""What decoders drop by functions, without a module that shows it."""


def drops(backbone: nn.Module) -> bool:
    """Whether a forward pass draws random numbers in training."""
    model = next(module for module in backbone.modules() if isinstance(module, PreTrainedModel))
    config = model.config.get_text_config().to_dict()
    in_config = any(isinstance(config.get(name), float) and config[name] > 0 for name in _RATES)
    return in_config or any(isinstance(module, nn.Dropout) and module.p > 0 for module in backbone.modules())
