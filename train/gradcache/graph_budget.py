"""How many tokens' graphs a run holds: chunks whose graph is kept are embedded once a step, not twice.

    budget = GraphBudget(model, chunks, setting)
    tokens = budget.at_step(wanted)    # for this step
    budget.room()                      # at any moment within it

In main memory, which other programs use too, the run looks at what is free before each step and each pass, and drops
graphs when it becomes less. A dropped graph costs time only: the chunk is embedded again and gives the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from dec2vec.batching import Chunk
from dec2vec.runtime import give_back_freed_memory, is_out_of_memory
from train.adapters.lora import trainable_parameters
from train.distributed.collectives import is_first_process, world_size
from train.distributed.interface import Engine
from train.gradcache.memory import free_bytes, own_bytes, token_bytes
from train.gradcache.threads import fitting_threads

SHARE = 0.4
"""With graph_tokens auto, a run takes at most this part of the main memory that is free or its own."""
ACCELERATOR_SHARE = 0.8
"""The same of an accelerator's memory, which it has for itself but for fragments."""
LIMIT = 0.9
"""With a number for graph_tokens, graphs are dropped before the run takes a larger part."""
PASS_MEMORY = 1.3
"""What a forward and backward pass needs, as a multiple of the chunk's graph."""
_LESS = 0.75
"""From this part of what was kept before, the run says that it keeps less."""
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Needs:
    """The memory of one process of a run, in bytes."""

    token: int
    """The graph of one token."""
    rest: int
    """At most, everything but graphs that are kept: weights, optimizer, data, and the passes that run at a time."""

    @classmethod
    def measure(cls, model: Engine, chunks: Sequence[Chunk]) -> Needs:
        """The needs of steps such as that of `chunks`, measured on some rows of the largest."""
        largest = max(chunks, key=lambda chunk: chunk.padded_tokens)
        token = token_bytes(model, largest)
        weights = trainable_parameters(model.embedder).values()
        updates = 3 * sum(weight.numel() * weight.element_size() for weight in weights)  # gradient and two moments
        passes = fitting_threads(model, len(chunks)) * PASS_MEMORY * largest.padded_tokens * token
        give_back_freed_memory()
        return cls(token, own_bytes(largest.input_ids.device) + updates + int(passes))

    def kept_tokens(self, allowed: float) -> int:
        """How many tokens' graphs fit if the process may take `allowed` bytes."""
        return max(0, int(allowed) - self.rest) // max(1, self.token)


class GraphBudget:
    """The tokens whose graphs this process may hold.

    An accelerator's memory is looked at once: there, a lack of it is an error that can be caught.
    """

    def __init__(self, model: Engine, chunks: Sequence[Chunk], setting: int | Literal["auto"]) -> None:
        self._device = chunks[0].input_ids.device
        self._most = None if setting == "auto" else setting
        self._smallest = min(chunk.padded_tokens for chunk in chunks)
        self._level = 0
        self._fixed: int | None = None
        if self._device.type == "cpu":
            self._share = SHARE if self._most is None else LIMIT
            self.needs = Needs.measure(model, chunks)
        else:
            self._share = ACCELERATOR_SHARE
            self.needs = Needs(0, 0) if self._most is not None else Needs.measure(model, chunks)
            self._fixed = self._affordable() if self._most is None else self._most

    @property
    def is_watched(self) -> bool:
        """Whether `room` changes during a step."""
        return self._fixed is None

    def room(self) -> int:
        """Tokens whose graphs this process may hold now."""
        tokens = self._affordable() if self._fixed is None else self._fixed
        return tokens if self._most is None else min(tokens, self._most)

    def at_step(self, wanted: int) -> int:
        """`room` before a step of `wanted` tokens. If it has become much less, memory is given back, and it is said."""
        tokens = self.room()
        if tokens < _LESS * self._level:
            give_back_freed_memory()
            if tokens < wanted:
                _tell(
                    f"less memory is free than before: {tokens:,} of the next step's {wanted:,} tokens keep their graph"
                )
            self._level = tokens
        self._level = max(self._level, tokens)
        return tokens

    def run(self, step: Callable[[int], Result], wanted: int) -> Result:
        """`step` of `wanted` tokens, called with the number that keep their graph: fewer where memory runs out.

        With several processes the error is raised, since the others wait for this one in the middle of the step.
        """
        while True:
            kept = min(wanted, self.at_step(wanted))
            try:
                return step(kept)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not kept or world_size() > 1 or not is_out_of_memory(error):
                    raise
            # outside of `except`, which holds the tensors of the failed attempt
            self._most = self._level = kept // 2 if kept > 2 * self._smallest else 0
            give_back_freed_memory()
            _tell(f"out of memory; from here, at most {self._most:,} tokens keep their graph (batch.graph_tokens)")

    def _affordable(self) -> int:
        own, processes = own_bytes(self._device), world_size() if self._device.type == "cpu" else 1
        return self.needs.kept_tokens(self._share * (free_bytes(self._device) / processes + own))


def _tell(what: str) -> None:
    if is_first_process():
        _log.warning("%s; the others are embedded twice, which changes no gradient", what)
