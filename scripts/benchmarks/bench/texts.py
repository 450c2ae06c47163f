"""Texts of stated lengths from made-up words whose frequencies follow Zipf's law."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_TOKENS = 512
PROMPT_TOKENS = 40


@dataclass(frozen=True)
class Lengths:
    """Tokens of a text, EOS included: lognormal with this mean, between 4 and 512."""

    mean: float
    sigma: float

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """So many lengths."""
        drawn = generator.lognormal(np.log(self.mean) - self.sigma**2 / 2, self.sigma, count)
        return np.clip(drawn.round().astype(np.int64), 4, MAX_TOKENS)


NLI = (Lengths(18, 0.45), Lengths(12, 0.35))
"""Premises and hypotheses of SNLI and MultiNLI, roughly."""
CASES: dict[str, tuple[Lengths, ...]] = {
    "short": NLI,
    "long": (Lengths(60, 0.9), Lengths(60, 0.9)),
    "prompt": NLI,
    "triplets": (*NLI, NLI[1]),
    "2x30": (Lengths(30, 0.45), Lengths(30, 0.45)),
    "2x250": (Lengths(250, 0.5), Lengths(250, 0.5)),
}
COLUMNS = ("anchor", "positive", "negative")


@cache
def lexicon() -> tuple[str, ...]:
    """20,000 words of one to four syllables, the frequent ones short."""
    generator = np.random.default_rng(0)
    syllables = [start + vowel + end for start in "bdfgklmnprst" for vowel in "aeiou" for end in ("", "n", "r", "s")]
    words: dict[str, None] = {}
    while len(words) < 20_000:
        parts = 1 + min(3, len(words) // 60) if len(words) < 240 else int(generator.integers(2, 5))
        words["".join(generator.choice(syllables, parts))] = None
    return tuple(words)


def zipf(words: tuple[str, ...], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Ranks of words; the chance of rank r falls as 1 / (r + 2.7) (Mandelbrot)."""
    chances = 1 / (np.arange(len(words)) + 2.7)
    return generator.choice(len(words), size=count, p=chances / chances.sum())


def running_text(words: tuple[str, ...], count: int) -> Iterator[str]:
    """Lines of ten words, to train a tokenizer on."""
    ranks = zipf(words, count, np.random.default_rng(1))
    for start in range(0, count, 10):
        yield " ".join(words[rank] for rank in ranks[start : start + 10])


def make_rows(case: str, count: int, tokenizer: Any) -> list[dict[str, str]]:
    """Rows of the case's columns, with texts of the lengths that the case states (before any prompt)."""
    generator = np.random.default_rng(2)
    words = lexicon()
    costs = np.array(
        [len(ids) for ids in tokenizer([f" {word}" for word in words], add_special_tokens=False).input_ids]
    )
    columns = [
        [_text(int(length) - 1, words, costs, generator) for length in lengths.draw(count, generator)]
        for lengths in CASES[case]
    ]
    return [dict(zip(COLUMNS, row, strict=False)) for row in zip(*columns, strict=True)]


def make_prompt(case: str, tokenizer: Any) -> str:
    """The instruction of the prompt case, 40 tokens long; nothing for the others."""
    if case != "prompt":
        return ""
    words = lexicon()
    costs = np.array(
        [len(ids) for ids in tokenizer([f" {word}" for word in words], add_special_tokens=False).input_ids]
    )
    return _text(PROMPT_TOKENS, words, costs, np.random.default_rng(3))


def _text(tokens: int, words: tuple[str, ...], costs: NDArray[np.int64], generator: np.random.Generator) -> str:
    ranks = zipf(words, tokens, generator)
    kept = int(np.searchsorted(np.cumsum(costs[ranks]), tokens, side="right"))
    return "".join(f" {words[rank]}" for rank in ranks[: max(1, kept)])
