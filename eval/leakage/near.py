"""Near-duplicates: texts that share four of five shingles of three words (Broder 1997), found by MinHash.

A training text can only reach Jaccard J with some evaluation text if a share J of its own shingles occurs
anywhere on the evaluation side. That test is exact, costs one look-up a shingle, and leaves few texts to be
hashed; LSH (datasketch) then names the candidates, and their Jaccard similarity is counted, not estimated.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eval.leakage.normal_form import IDEOGRAPHIC, is_spaceless, units

THRESHOLD = 0.8
"""Jaccard similarity from which on two texts are near-duplicates."""
SHINGLE = 3
"""Words of a shingle."""
IDEOGRAPHS = 4
"""Characters of Han, kana or Bopomofo that stand for the three words of a shingle."""
LETTERS = 7
"""Characters, each with its marks, of Thai, Lao, Khmer, Burmese and their like that do."""
BANDS, ROWS = 32, 4
"""Bands of the LSH: a pair at the threshold is missed once in 20 million, (1 - 0.8^4)^32."""

Shingles = frozenset[tuple[str, ...]]


def shingles(key: str) -> Shingles:
    """Runs of three words of a normalised text; a shorter text is one shingle.

    A word of Chinese or Japanese has about 1.6 characters, one of Thai, Lao, Khmer or Burmese three to four. With runs
    of 4 and 7 characters another word is as grave there as in a script with spaces: at the threshold are texts of 20 to
    30 words with another one in the middle, and texts of some 11 words with another one at an end. Blanks next to a
    character with marks at an end keep short texts apart that differ in the marks of this character alone.
    """
    cut = units(key)
    if key.isascii() or not any(map(is_spaceless, cut)):
        runs: list[tuple[str, ...]] = list(zip(cut, cut[1:], cut[2:], strict=False))
    else:
        runs = list(_mixed_runs(cut))
    return frozenset(runs or ([tuple(cut)] if cut else []))


def _mixed_runs(cut: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """From each unit on as many as fill a shingle, of which a character fills a smaller part than a word."""
    before, after = _Part.of(cut[0]), _Part.of(cut[-1])
    padded = [*before.blanks, *cut, *after.blanks]
    weights = [before.weight] * len(before.blanks) + [_Part.of(unit).weight for unit in cut]
    weights += [after.weight] * len(after.blanks)
    end = filled = 0
    for start, weight in enumerate(weights):
        while filled < _WHOLE:
            if end == len(padded):
                return
            filled += weights[end]
            end += 1
        yield tuple(padded[start:end])
        filled -= weight


@dataclass(frozen=True)
class _Part:
    """How much of a shingle a unit fills, and how many blanks stand next to one at an end of the text."""

    weight: int
    blanks: tuple[str, ...] = ()

    @classmethod
    def of(cls, unit: str) -> _Part:
        if not is_spaceless(unit):
            return _WORD
        return _IDEOGRAPH if _IS_IDEOGRAPH.match(unit) else _LETTER


_WHOLE = SHINGLE * IDEOGRAPHS * LETTERS
_WORD = _Part(_WHOLE // SHINGLE)
_IDEOGRAPH = _Part(_WHOLE // IDEOGRAPHS)
_LETTER = _Part(_WHOLE // LETTERS, ("",) * 3)
_IS_IDEOGRAPH = re.compile(f"[{IDEOGRAPHIC}]")


def jaccard(left: Shingles, right: Shingles) -> float:
    """Shared shingles as a share of all; 0 where there are none."""
    together = len(left & right)
    union = len(left) + len(right) - together
    return together / union if union else 0.0


class NearIndex:
    """Evaluation texts, normalised, to be asked which of them a training text nearly repeats."""

    def __init__(self, keys: Iterable[str]) -> None:
        from datasketch import MinHashLSH

        self._by_shingles: dict[Shingles, list[str]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            self._by_shingles[shingles(key)].append(key)
        self._by_shingles.pop(frozenset(), None)
        self._known: Shingles = frozenset().union(*self._by_shingles)
        self._sets = list(self._by_shingles)
        self._lsh = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        for index, sketch in enumerate(_sketches(self._sets)):
            self._lsh.insert(index, sketch, check_duplication=False)

    def found(self, keys: Iterable[str]) -> set[str]:
        """The indexed texts of which some of `keys` (normalised) is a near-duplicate or a copy."""
        asked = list(dict.fromkeys(cut for key in keys if self._is_possible(cut := shingles(key))))
        seen = {cut for cut in asked if cut in self._by_shingles}
        for cut, sketch in zip(asked, _sketches(asked), strict=True):
            candidates = (self._sets[index] for index in self._lsh.query(sketch))
            seen.update(other for other in candidates if jaccard(cut, other) >= THRESHOLD)
        return {key for cut in seen for key in self._by_shingles[cut]}

    def _is_possible(self, cut: Shingles) -> bool:
        return bool(cut) and len(cut & self._known) >= THRESHOLD * len(cut)


def _sketches(sets: Sequence[Shingles]) -> Iterator[Any]:
    from datasketch import MinHash

    encoded = ([" ".join(shingle).encode("utf-8", "surrogatepass") for shingle in cut] for cut in sets)
    yield from MinHash.generator(encoded, num_perm=BANDS * ROWS, seed=1)
