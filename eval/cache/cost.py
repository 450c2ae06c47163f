"""What the vectors of one prompt cost: texts and tokens that went through a decoder, and the time it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from eval.systems.system import TextEncoder

T = TypeVar("T")


@dataclass
class Cost:
    """Vectors that were kept from an earlier evaluation cost nothing."""

    texts: int = 0
    tokens: int = 0
    prefix_tokens: int = 0
    """Of `tokens`: the prompt, as far as it was read once for all texts."""
    spared_tokens: int = 0
    """What reading it with every text would have added."""
    seconds: float = 0.0

    def watch(self, encoder: TextEncoder, stream: Iterator[T]) -> Iterator[T]:
        """`stream` itself, with the time that it takes and the tokens that `encoder` reads meanwhile."""
        before = replace(encoder.tally)
        try:
            while True:
                started = time.perf_counter()
                item = next(stream, None)
                self.seconds += time.perf_counter() - started
                if item is None:
                    return
                yield item
        finally:
            after = encoder.tally
            self.tokens += after.tokens - before.tokens
            self.prefix_tokens += after.prefix - before.prefix
            self.spared_tokens += after.saved - before.saved
