"""Gradient caching (Gao et al. 2021): the batch is bounded by time, not by memory.

1. Embed every chunk. The first chunks, up to `graph_tokens`, keep their graph; the others are embedded without one.
2. The loss sees all embeddings at once and yields the gradient at each.
3. Back-propagate that gradient through each chunk: kept graphs directly, the others embedded a second time.

Invariant: loss and every gradient equal those of one plain forward and backward over the whole batch. Dropout included:
a chunk's second forward replays the random state of its first.

Under DDP all chunks run inside `no_sync`, and DDP is armed before the last one's backward as a forward outside would
arm it: its own mechanism reduces the gradients once a step, and the last chunk may keep its graph too. FSDP2 is told
which backward is the last. Its passes gather weights, so all ranks make the same ones (`train.distributed.sharded`): a
weight is gathered once for each, and not again between them.

In a single process on a CPU chunks may run side by side (`train.gradcache.threads`); their gradients are added in
order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dec2vec.batching import Chunk
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.shared_prefix import SharedPrefix
from train.adapters.lora import trainable_parameters
from train.distributed.collectives import world_size
from train.distributed.ddp import Model, arm, settle_buckets
from train.distributed.sharded import Sharded, pad_passes
from train.gradcache.prefix import PrefixGradient
from train.gradcache.threads import in_order, side_by_side
from train.losses.objective import Objective


class RandomState:
    """The generators that dropout draws from, so that a forward can be repeated exactly."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._device = device

    def restore(self) -> None:
        """Draw again what was drawn after this object was made."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)


@dataclass
class _Embedded:
    """A chunk after the first pass: its vectors, with a graph or with the state to make one."""

    chunk: Chunk
    pooled: Float[Tensor, "batch dim"]
    state: RandomState | None
    """None with a graph, and where nothing random is drawn."""
    idle: bool
    """A pass that only keeps step with the other ranks."""


def cached_step(
    model: Model,
    chunks: Sequence[Chunk],
    objective: Callable[[Float[Tensor, "unique dim"]], Objective],
    *,
    graph_tokens: int,
    prefix: Int[Tensor, " prefix"] | None = None,
    parallel: bool = False,
) -> Objective:
    """Accumulate the gradient of the global batch's mean loss into the parameters' `.grad`.

    `chunks` cover this rank's unique texts, each once, without the `prefix` that all begin with (one process only);
    `objective` maps their embeddings to loss and gradients. `parallel` lets chunks run side by side where they can.
    """
    settle_buckets(model)
    threads = side_by_side(model, len(chunks)) if parallel and isinstance(model, Embedder) else 1
    beginning = None
    if prefix is not None:
        assert isinstance(model, Embedder)
        beginning = PrefixGradient.read(model, prefix)
    shared = None if beginning is None else beginning.shared
    embedded = _embed_all(model, chunks, graph_tokens, shared, threads)
    own = embedded[: len(chunks)]
    unique = torch.cat([item.pooled.detach() for item in own])
    order = torch.cat([item.chunk.rows for item in own])
    result = objective(torch.empty_like(unique).index_copy(0, order, unique))
    after = RandomState(unique.device)
    # the engines average over ranks; the loss is a mean over the global batch, so each rank's share must be summed
    scaled = result.embedding_gradient * world_size()
    if threads > 1:
        leaves = [*trainable_parameters(model).values(), *([] if beginning is None else beginning.leaves)]
        for gradients in in_order(partial(_gradients, model, scaled, shared, leaves), embedded, threads):
            _accumulate(leaves, gradients)
    else:
        for item in embedded:
            _backward(model, item, scaled, shared, last=item is embedded[-1])
    if beginning is not None:
        beginning.backward()
    after.restore()
    return result


def _embed_all(
    model: Model, chunks: Sequence[Chunk], graph_tokens: int, shared: SharedPrefix | None, threads: int
) -> list[_Embedded]:
    """All chunks in their order, and after them what keeps this rank in step with the others."""
    keeps = _within(chunks, graph_tokens)
    passes = list(chunks)
    if isinstance(model, Sharded):
        passes, keeps = pad_passes(chunks, keeps)
    items = [
        (chunk, keep, position >= len(chunks)) for position, (chunk, keep) in enumerate(zip(passes, keeps, strict=True))
    ]
    return list(in_order(partial(_embed, model, shared, draws=threads == 1), items, threads))


def _within(chunks: Sequence[Chunk], graph_tokens: int) -> list[bool]:
    """Which chunks may keep their graph."""
    room, keeps = graph_tokens, []
    for chunk in chunks:
        keeps.append(chunk.padded_tokens <= room)
        room -= chunk.padded_tokens if keeps[-1] else 0
    return keeps


def _embed(model: Model, shared: SharedPrefix | None, item: tuple[Chunk, bool, bool], *, draws: bool) -> _Embedded:
    chunk, keep_graph, idle = item
    state = None if keep_graph or not draws else RandomState(chunk.input_ids.device)
    if isinstance(model, Sharded):
        model.begin_backward(last=False)
    with torch.set_grad_enabled(keep_graph):
        pooled = _pooled(model, chunk, shared)
    return _Embedded(chunk, pooled, state, idle)


def _backward(
    model: Model, item: _Embedded, gradient: Float[Tensor, "unique dim"], shared: SharedPrefix | None, *, last: bool
) -> None:
    """A step's last pass gives the gradients to the ranks' sum."""
    if isinstance(model, Sharded):
        model.begin_backward(last=last)
    pooled = _with_graph(model, item, shared)
    if last and isinstance(model, DistributedDataParallel):
        arm(model)
    torch.autograd.backward(pooled, torch.zeros_like(pooled) if item.idle else gradient[item.chunk.rows])


def _gradients(
    model: Model,
    gradient: Float[Tensor, "unique dim"],
    shared: SharedPrefix | None,
    leaves: Sequence[Tensor],
    item: _Embedded,
) -> tuple[Tensor | None, ...]:
    """What `_backward` would add to the leaves."""
    pooled = _with_graph(model, item, shared)
    return torch.autograd.grad(pooled, leaves, gradient[item.chunk.rows], allow_unused=True)


def _with_graph(model: Model, item: _Embedded, shared: SharedPrefix | None) -> Float[Tensor, "batch dim"]:
    if item.pooled.requires_grad:
        return item.pooled
    if item.state is not None:
        item.state.restore()
    return _pooled(model, item.chunk, shared)


def _pooled(model: Model, chunk: Chunk, shared: SharedPrefix | None) -> Float[Tensor, "batch dim"]:
    """A forward pass, for which DDP doesn't arm itself."""
    with model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext():
        pooled: Tensor = model(chunk.input_ids, chunk.lengths, prefix=shared)[0]
    return pooled


def _accumulate(leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            leaf.grad = gradient if leaf.grad is None else leaf.grad.add_(gradient)
