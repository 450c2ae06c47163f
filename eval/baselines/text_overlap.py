"""BLEU, chrF and ROUGE-L, made to judge generated text, as similarities of two texts.

They tell a hypothesis from a reference, and similarity doesn't: each value is the mean of both directions, in 0..1.
BLEU and chrF are sacrebleu's, ROUGE-L is rouge-score's, with their usual settings but for two: BLEU does not see case,
and ROUGE-L sees the words of `eval.baselines.words`, as rouge-score's own tokenizer drops all but a-z and 0-9.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from eval.baselines.words import SPACELESS, words

Score = Callable[[str, str], float]
"""Of a hypothesis against a reference, in 0..1."""


class GenerationScore:
    """The library's score of a pair, both ways round. A text without words is like nothing: 0."""

    def __init__(self, name: str, make: Callable[[], Score]) -> None:
        self.name = name
        self._make = make

    def similarities(self, left: Sequence[str], right: Sequence[str]) -> Float64[np.ndarray, " pairs"]:
        """Of each pair, in order."""
        score = self._make()
        found = [(score(a, b) + score(b, a)) / 2 for a, b in zip(left, right, strict=True)]
        return np.array(found, dtype=np.float64)


def bleu() -> GenerationScore:
    """sacrebleu's `sentence_bleu` in lower case: tokenizer 13a, exponential smoothing, effective order.

    In scripts without blanks each letter is a word, as with sacrebleu's tokenizer zh. (Papineni et al. 2002; Chen &
    Cherry 2014.)
    """

    def make() -> Score:
        from sacrebleu.metrics.bleu import BLEU

        metric = BLEU(lowercase=True, effective_order=True)

        def score(hypothesis: str, reference: str) -> float:
            if not (words(hypothesis) and words(reference)):
                return 0.0
            found = metric.sentence_score(_spaced(hypothesis), [_spaced(reference)])
            return min(1.0, float(found.score) / 100)

        return score

    return GenerationScore("bleu", make)


_UNSPACED = re.compile(rf"[{SPACELESS}\u3000-\u303f\uff00-\uffef]")
"""Letters of scripts without blanks, and the wide punctuation that tokenizer 13a leaves where it is."""


def _spaced(text: str) -> str:
    return _UNSPACED.sub(r" \g<0> ", text)


def chrf() -> GenerationScore:
    """F2 of character n-grams up to 6, blanks and punctuation as they are (Popović 2015)."""

    def make() -> Score:
        from sacrebleu.metrics.chrf import CHRF

        metric = CHRF()

        def score(hypothesis: str, reference: str) -> float:
            if not (hypothesis.strip() and reference.strip()):
                return 0.0
            return min(1.0, float(metric.sentence_score(hypothesis, [reference]).score) / 100)

        return score

    return GenerationScore("chrf", make)


def rouge_l() -> GenerationScore:
    """F1 of the longest common subsequence of words (Lin 2004); the same both ways round."""

    def make() -> Score:
        from rouge_score.rouge_scorer import RougeScorer

        scorer: Any = RougeScorer(["rougeL"], tokenizer=_Words())

        def score(hypothesis: str, reference: str) -> float:
            return float(scorer.score(reference, hypothesis)["rougeL"].fmeasure)

        return score

    return GenerationScore("rouge-l", make)


class _Words:
    """rouge-score's tokenizer protocol."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


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
