"""Gradient caching (Gao et al. 2021): the batch is bounded by time, not by memory.

1. Embed every chunk. The first chunks, up to `graph_tokens`, keep their graph; the others are embedded without one.
2. The loss sees all embeddings at once and yields the gradient at each.
3. Back-propagate that gradient through each chunk: kept graphs directly, the others are embedded a second time.

Invariant: the loss and every gradient equal those of one plain forward and backward pass over the whole batch. This
includes dropout: a chunk's second forward pass draws the same random numbers as its first.

How a pass runs on the processes of a run is the engine's business (`train.distributed.interface`); whether chunks run
one after another or in threads is decided in `train.gradcache.chunk_passes`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dec2vec.batching import Chunk
from dec2vec.decoder.devices import synchronize
from train.distributed.collectives import world_size
from train.distributed.interface import Engine
from train.gradcache.chunk_passes import EmbeddedChunk, Room, chunk_passes, random_state_kept
from train.gradcache.prefix import PrefixGradient
from train.losses.objective import Objective


@dataclass(frozen=True)
class CachedStep:
    """What a cached step returns; the gradients of the parameters are in their `.grad`."""

    loss: Float[Tensor, ""]
    log_temperature_gradient: Float[Tensor, ""]
    embedded_at: float
    """time.monotonic() when this rank's vectors were ready, before it waited for another rank."""
    projection_gradient: Float[Tensor, "teacher_dim dim"] | None = None
    parts: tuple[Float[Tensor, ""], ...] = ()
    """As in `Objective`."""


def cached_step(
    model: Engine,
    chunks: Sequence[Chunk],
    loss: Callable[[Float[Tensor, "unique dim"]], Objective],
    *,
    graph_tokens: int,
    prefix: Int[Tensor, " prefix"] | None = None,
    threads: int | None = None,
    scale: float = 1.0,
    room: Room | None = None,
) -> CachedStep:
    """Add the gradient of the global batch's mean loss to the parameters' `.grad`.

    `chunks` hold each unique text of this rank once, without the `prefix` that all of them begin with. `threads` is how
    many chunks may run at a time; by default as many as give the same gradient and are worth it. The gradients are
    multiplied by `scale`, for the sake of float16. `room` says at any moment how many tokens' graphs may be held; those
    that don't fit any more are dropped.
    """
    passes = model.passes(chunks, fitting_graphs(chunks, graph_tokens))
    beginning = PrefixGradient.read(model.embedder, prefix)
    runner = chunk_passes(model, beginning, len(chunks), threads, None if model.passes_are_collective else room)
    embedded = runner.embed(passes)
    embeddings = in_batch_order(embedded)
    embedded_at = time_when_ready(embeddings)
    objective = loss(embeddings)
    # engines average over the ranks, but the loss is a mean over the global batch: each rank's part must be summed
    gradient = objective.embedding_gradient * (world_size() * scale)
    with random_state_kept(embeddings.device):
        runner.back_propagate(embedded, gradient)
        beginning.backward(model)
    slope = objective.log_temperature_gradient
    return CachedStep(objective.loss, slope, embedded_at, objective.projection_gradient, objective.parts)


def fitting_graphs(chunks: Sequence[Chunk], graph_tokens: int) -> list[bool]:
    """Which chunks may keep their graph, so that the kept ones have at most `graph_tokens` tokens."""
    room, keeps = graph_tokens, []
    for chunk in chunks:
        keeps.append(chunk.padded_tokens <= room)
        room -= chunk.padded_tokens if keeps[-1] else 0
    return keeps


def in_batch_order(embedded: Sequence[EmbeddedChunk]) -> Float[Tensor, "unique dim"]:
    """The vectors of this rank's texts, detached, in the order of the indices that the loss uses."""
    texts = [item for item in embedded if not item.is_padding]
    vectors = torch.cat([item.pooled.detach() for item in texts])
    order = torch.cat([item.chunk.rows for item in texts])
    return torch.empty_like(vectors).index_copy(0, order, vectors)


def time_when_ready(embeddings: Tensor) -> float:
    """The time at which the device has computed `embeddings`; a single process does not wait for the device."""
    if world_size() > 1:
        synchronize(embeddings.device)  # the loss's first gather would wait for the device all the same
    return time.monotonic()
