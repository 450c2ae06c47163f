"""The forward and backward passes of a step's chunks: one chunk after another, or several at a time in threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from dec2vec.batching import Chunk
from dec2vec.decoder.devices import random_state, restore_random_state
from dec2vec.runtime import give_back_freed_memory
from train.adapters.lora import trainable_parameters
from train.distributed.interface import Engine, Pass
from train.gradcache.prefix import PrefixGradient
from train.gradcache.threads import fitting_threads, in_order


class RandomState:
    """The generators that dropout draws from, as they were when the object was made."""

    def __init__(self, device: torch.device) -> None:
        self._cpu = torch.get_rng_state()
        self._accelerator = random_state(device)
        self._device = device

    def restore(self) -> None:
        """Draw the same numbers again that were drawn after the object was made."""
        torch.set_rng_state(self._cpu)
        restore_random_state(self._device, self._accelerator)


@contextlib.contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """What is drawn within leaves no trace in what is drawn afterwards."""
    state = RandomState(device)
    yield
    state.restore()


Room = Callable[[], int]
"""How many tokens' graphs may be held now."""


@dataclass(eq=False)
class EmbeddedChunk:
    """A chunk after its first forward pass: its vectors, and where it has no graph the random state to make one."""

    chunk: Chunk
    is_padding: bool
    pooled: Float[Tensor, "batch dim"]
    state: RandomState | None
    """None where nothing random is drawn."""

    @property
    def graph_tokens(self) -> int:
        """Tokens whose graph it holds."""
        return self.chunk.padded_tokens if self.pooled.requires_grad else 0

    def drop_graph(self) -> None:
        """Keep the vectors alone; a second forward pass gives the same ones."""
        self.pooled = self.pooled.detach()

    def gradient(self, gradient: Float[Tensor, "unique dim"]) -> Float[Tensor, "batch dim"]:
        """The rows of the gradient at the vectors of this chunk."""
        return torch.zeros_like(self.pooled) if self.is_padding else gradient[self.chunk.rows]


class InTurn:
    """One chunk after another."""

    def __init__(self, model: Engine, beginning: PrefixGradient, room: Room | None = None) -> None:
        self._model = model
        self._beginning = beginning
        self._room = room

    def embed(self, passes: Sequence[Pass]) -> list[EmbeddedChunk]:
        """The first forward passes, in the order of `passes`."""
        return self._watched(self._embed(item, draws=True) for item in passes)

    def back_propagate(self, embedded: Sequence[EmbeddedChunk], gradient: Float[Tensor, "unique dim"]) -> None:
        """Add to every parameter's `.grad` what the gradient at the embeddings gives."""
        for position, item in enumerate(embedded):
            self._drop_what_does_not_fit(embedded[position:])
            self._model.begin_backward(last=item is embedded[-1] and self._beginning.shared is None)
            torch.autograd.backward(self._with_graph(item), item.gradient(gradient))
            item.drop_graph()

    def _watched(self, chunks: Iterable[EmbeddedChunk]) -> list[EmbeddedChunk]:
        """The chunks, of which those lose their graph again for which there is no room when they are ready."""
        embedded: list[EmbeddedChunk] = []
        for item in chunks:
            embedded.append(item)
            self._drop_what_does_not_fit(embedded)
        return embedded

    def _drop_what_does_not_fit(self, embedded: Sequence[EmbeddedChunk]) -> None:
        if self._room is None or not any(item.graph_tokens for item in embedded):
            return
        room, dropped = self._room(), False
        for item in embedded:
            room -= item.graph_tokens
            if room < 0 and item.graph_tokens:
                item.drop_graph()
                dropped = True
        if dropped:
            give_back_freed_memory()

    def _embed(self, item: Pass, *, draws: bool) -> EmbeddedChunk:
        may_need_state = not item.keep_graph or self._room is not None
        state = RandomState(item.chunk.input_ids.device) if draws and may_need_state else None
        with torch.set_grad_enabled(item.keep_graph):
            pooled = self._model.forward(item.chunk, self._beginning.shared)
        return EmbeddedChunk(item.chunk, item.is_padding, pooled, state)

    def _with_graph(self, item: EmbeddedChunk) -> Float[Tensor, "batch dim"]:
        """The chunk's vectors with their graph, from a second forward pass where there is none."""
        pooled = item.pooled  # which the main thread may replace
        if pooled.requires_grad:
            return pooled
        if item.state is not None:
            item.state.restore()
        return self._model.forward(item.chunk, self._beginning.shared)


class InThreads(InTurn):
    """Several chunks at a time; their gradients are added in the chunks' order, so that sums are always the same."""

    def __init__(self, model: Engine, beginning: PrefixGradient, threads: int, room: Room | None = None) -> None:
        super().__init__(model, beginning, room)
        self._threads = threads

    def embed(self, passes: Sequence[Pass]) -> list[EmbeddedChunk]:
        return self._watched(in_order(partial(self._embed, draws=False), passes, self._threads))

    def back_propagate(self, embedded: Sequence[EmbeddedChunk], gradient: Float[Tensor, "unique dim"]) -> None:
        leaves = [*trainable_parameters(self._model.embedder).values(), *self._beginning.leaves]

        def gradients(item: EmbeddedChunk) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(self._with_graph(item), leaves, item.gradient(gradient), allow_unused=True)

        for position, chunk_gradients in enumerate(in_order(gradients, embedded, self._threads)):
            _accumulate(leaves, chunk_gradients)
            embedded[position].drop_graph()
            self._drop_what_does_not_fit(embedded[position + 1 :])


def chunk_passes(
    model: Engine, beginning: PrefixGradient, chunks: int, threads: int | None, room: Room | None = None
) -> InTurn:
    """How `chunks` chunks are run; `threads` of them at a time, or as many as fit. `room` limits graphs as they run."""
    threads = fitting_threads(model, chunks) if threads is None else threads
    return InTurn(model, beginning, room) if threads == 1 else InThreads(model, beginning, threads, room)


def _accumulate(leaves: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for leaf, gradient in zip(leaves, gradients, strict=True):
        if gradient is not None:
            leaf.grad = gradient if leaf.grad is None else leaf.grad.add_(gradient)
