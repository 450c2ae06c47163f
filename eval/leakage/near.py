"""Near-duplicates: texts that share four of five three-word shingles (Broder 1997), found by MinHash.

A training text can only reach Jaccard J with some evaluation text if a share J of its own shingles occurs
anywhere on the evaluation side. That test is exact, costs one look-up a shingle, and leaves few texts to be
hashed; LSH (datasketch) then names the candidates, and their Jaccard similarity is counted, not estimated.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

THRESHOLD = 0.8
"""Jaccard similarity from which on two texts are near-duplicates."""
SHINGLE = 3
"""Words of a shingle."""
BANDS, ROWS = 32, 4
"""Bands of the LSH: a pair at the threshold is missed once in 20 million, (1 - 0.8^4)^32."""

UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
"""Scripts written without spaces (Thai, Lao, Burmese, Khmer, kana, Han): each character is a word."""
_CHARACTER = re.compile(f"({UNSPACED})")

Shingles = frozenset[tuple[str, ...]]


def shingles(key: str) -> Shingles:
    """Runs of three words of a normalised text; a shorter text is one shingle."""
    words = (key if key.isascii() else _CHARACTER.sub(r" \1 ", key)).split()
    if len(words) <= SHINGLE:
        return frozenset([tuple(words)]) if words else frozenset()
    return frozenset(zip(words, words[1:], words[2:], strict=False))


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
