"""How much a decoder had to read: what a long prompt costs, and what reading it once saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Tally:
    """Tokens that went through a decoder, equal texts once and padding apart."""

    tokens: int = 0
    prefix: int = 0
    """Of `tokens`: beginnings that texts have in common, read once for all of them."""
    spared: int = 0
    """Not among `tokens`: the same beginnings, had each text brought its own."""

    def add(self, own: Sequence[Sequence[int]], prefix: int) -> None:
        """Texts behind a common beginning of `prefix` tokens (0: none)."""
        self.tokens += prefix + sum(map(len, own))
        self.prefix += prefix
        self.spared += prefix * max(0, len(own) - 1)
