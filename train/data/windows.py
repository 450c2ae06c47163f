"""The order of rows that are streamed: shuffled blocks, and within a window of many blocks shuffled rows.

An epoch puts blocks of `BLOCK` consecutive rows into a random order and cuts this into windows. Each window is drawn
from as its rows alone would be (`Mixed`, `UniqueTexts`, `ByLabel`), so that an order of any length takes the memory of
a window. Rows that fit into one window come in the order that they have without streaming.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from train.data.sampler import Indices, Sampler, steps_per_epoch

WINDOW = 1 << 18
"""Number of rows of a window, up to a whole number of batches; the last one has up to twice as many."""
BLOCK = 256
"""Number of consecutive rows that stay together in one window."""
Draw = Callable[[Indices, int], Sampler]
"""The sampler of a window, which numbers the rows of the window from 0, by these rows and its seed."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Batches from `n` rows, each of which comes once per epoch if `draw` uses all rows of a window.

    It is a function of seed and step, like every sampler: a resumed run needs no more than the number of its step.
    """

    n: int
    batch: int
    seed: int
    draw: Draw

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return steps_per_epoch(self.n, self.batch)

    @property
    def length(self) -> int:
        """Number of rows of all windows but the last."""
        return max(1, WINDOW // self.batch) * self.batch

    @property
    def count(self) -> int:
        """Number of windows."""
        return max(1, self.n // self.length)

    def rows(self, step: int) -> Indices:
        """Rows of the global batch at `step` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        number = min(position // (self.length // self.batch), self.count - 1)
        rows, sampler = self.window(epoch, number)
        place = position - number * (self.length // self.batch)
        return rows[sampler.rows(epoch * sampler.steps_per_epoch + place)]

    def window(self, epoch: int, number: int) -> tuple[Indices, Sampler]:
        """The rows of a window, and what draws from them."""
        return _window(self, epoch, number)

    def rows_of(self, epoch: int, number: int) -> Indices:
        """The rows of a window, block by block."""
        if self.count == 1:
            return np.arange(self.n)
        order = np.random.default_rng([self.seed, epoch, 3]).permutation(-(-self.n // BLOCK))
        stops = np.cumsum(np.minimum((order + 1) * BLOCK, self.n) - order * BLOCK)
        start = number * self.length
        stop = self.n if number == self.count - 1 else start + self.length
        first, last = np.searchsorted(stops, [start, stop - 1], side="right").tolist()
        blocks = [np.arange(b * BLOCK, min((b + 1) * BLOCK, self.n)) for b in order[first : last + 1].tolist()]
        begin = start - (int(stops[first - 1]) if first else 0)
        return np.concatenate(blocks)[begin : begin + stop - start]

    def seed_of(self, number: int) -> int:
        """The seed of a window; that of the order itself if there is one only."""
        if self.count == 1:
            return self.seed
        return int(np.random.SeedSequence([self.seed, number, 4]).generate_state(1, np.uint64)[0] >> 1)


@lru_cache(maxsize=8)
def _window(windows: Windows, epoch: int, number: int) -> tuple[Indices, Sampler]:
    """Several are cached, because sources take turns."""
    rows = windows.rows_of(epoch, number)
    return rows, windows.draw(rows, windows.seed_of(number))
