"""Token overlap: shared words of two texts, as sets (Jaccard) or as bags (Dice)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from eval.baselines.words import words


class WordOverlap:
    """Two texts without words have nothing in common: 0."""

    def __init__(self, name: str, measure: Callable[[list[str], list[str]], float]) -> None:
        self.name = name
        self._measure = measure

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> Float64[np.ndarray, " pairs"]:
        """Of each pair, in order."""
        return np.array([self._measure(words(a), words(b)) for a, b in zip(left, right, strict=True)], dtype=np.float64)


def jaccard() -> WordOverlap:
    """Distinct shared words over distinct words."""
    return WordOverlap("jaccard", _jaccard)


def dice() -> WordOverlap:
    """Twice the shared words, repeats counted, over the words of both: the F1 of unigrams."""
    return WordOverlap("dice", _dice)


def _jaccard(left: list[str], right: list[str]) -> float:
    one, other = set(left), set(right)
    return len(one & other) / max(1, len(one | other))


def _dice(left: list[str], right: list[str]) -> float:
    shared = sum((Counter(left) & Counter(right)).values())
    return 2 * shared / max(1, len(left) + len(right))
