"""What of a decoder gets a gradient, found by a forward and a backward pass of a few tokens.

Some families read the weights of a module without calling it (`dt_proj` of Jamba), so that an adapter of it would not
take part; some choose tokens without gradient (the indexer of DeepSeek-V3.2); and what stands above a pooled inner
layer is not run at all. What never gets a gradient would be saved as if it had been trained, and DDP would wait for it.

An expert to which no token of the pass was sent is another matter: it may get a gradient from other texts. So may what
runs for long texts only, which is why a second, longer pass looks for what the first did not reach.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dec2vec.config.model import DEFAULT_LENGTH
from dec2vec.decoder.devices import random_numbers_put_back
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.positions import position_limit


def modules_without_gradient(embedder: Embedder, candidates: Mapping[str, nn.Module]) -> list[str]:
    """The names of those modules whose output no gradient reaches, whatever the text. All weights must be frozen.

    Each module's output gets a zero added, whose gradient is asked for.
    """
    return _never(embedder, lambda length: _unreached_modules(embedder, candidates, length), candidates)


def weights_without_gradient(embedder: Embedder) -> list[str]:
    """The names of the trained weights that no gradient reaches, whatever the text."""
    weights = _trained(embedder)
    return _never(embedder, lambda length: _unreached(embedder, weights, length), weights)


def weights_that_texts_skip(embedder: Embedder) -> list[Tensor]:
    """Trained weights that not every text gives a gradient: what a single token leaves out, and further experts."""
    weights = _trained(embedder)
    return [weights[name] for name in _siblings(_unreached(embedder, weights, 1), weights)]


def _trained(embedder: Embedder) -> dict[str, Tensor]:
    return {name: weight for name, weight in embedder.named_parameters() if weight.requires_grad}


def _siblings(names: Iterable[str], among: Iterable[str]) -> list[str]:
    """Those that differ from one of `names` in the number of an expert at most, these included."""
    places = set(map(_place, names))
    return [name for name in among if _place(name) in places]


def _never(embedder: Embedder, unreached: Any, among: Collection[str]) -> list[str]:
    """What neither a short nor a long text reaches, without experts of which others are reached."""
    missing = set(unreached(2))
    if missing:
        missing &= set(unreached(_long_text(embedder)))
    reached = set(_siblings([name for name in among if name not in missing], among))
    return [name for name in among if name not in reached]


def _long_text(embedder: Embedder) -> int:
    backbone: Any = embedder.backbone
    return min(DEFAULT_LENGTH, position_limit(backbone.config.get_text_config()) or DEFAULT_LENGTH)


def _unreached_modules(embedder: Embedder, candidates: Mapping[str, nn.Module], tokens: int) -> list[str]:
    device = next(embedder.parameters()).device
    zeros = {name: torch.zeros((), requires_grad=True, device=device) for name in candidates}

    def hook(name: str) -> Any:
        return lambda module, _, output: output + zeros[name] if _fits(module, output) else output

    handles = [module.register_forward_hook(hook(name)) for name, module in candidates.items()]
    try:
        return _unreached(embedder, zeros, tokens)
    finally:
        for handle in handles:
            handle.remove()


def _unreached(embedder: Embedder, weights: Mapping[str, Tensor], tokens: int) -> list[str]:
    with _as_in_training(embedder):
        device = next(embedder.parameters()).device
        ids = (2 + torch.arange(tokens, device=device) % 2)[None]
        (vectors,) = embedder(ids, torch.tensor([tokens], device=device))
        if not vectors.requires_grad:
            return list(weights)
        gradients = torch.autograd.grad(vectors.sum(), list(weights.values()), allow_unused=True)
    return [name for name, gradient in zip(weights, gradients, strict=True) if gradient is None]


def _fits(module: nn.Module, output: Any) -> bool:
    """Whether an adapter could add its output: routers return several tensors, grouped products fewer columns."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    return not isinstance(module, nn.Linear) or output.shape[-1] == module.out_features


@contextlib.contextmanager
def _as_in_training(embedder: Embedder) -> Iterator[None]:
    """In training mode, in which some families run other kernels; random numbers that dropout draws are put back."""
    was_training = embedder.backbone.training
    device = next(embedder.parameters()).device
    embedder.backbone.train()
    try:
        with torch.enable_grad(), random_numbers_put_back(device):
            yield
    finally:
        embedder.backbone.train(was_training)


def _place(name: str) -> str:
    """The name without the numbers within a block, which are those of experts."""
    parts = name.split(".")
    block = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join("#" if at > block and part.isdigit() else part for at, part in enumerate(parts))
