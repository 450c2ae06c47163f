"""One bar with the time left for a whole evaluation, by tokens: all runs, prompts, layers and tasks.

How many tokens a prompt makes of a text is estimated from a sample, and from the number of tokens of every text alone,
which is counted once. What has been read is no estimate. Texts whose vectors are kept from an earlier evaluation leave
the total as soon as they are found, so that an evaluation that continues shows the time left, not the time lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from dec2vec.decoder.shared_prefix import WORTHWHILE, common_prefix
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.tokenizer import clean_surrogates, plain_ids
from dec2vec.runtime import bar_options
from eval.cache.vector_cache import CachedEncoder
from eval.systems.system import TextEncoder

SAMPLE = 32
"""Texts from which the tokens of a prompt are estimated."""
KEPT = 0.01
"""Share of the tokens of a part up to which its vectors count as kept from before."""

Unit = tuple[str | None, str]
"""A run (None for the untuned decoder) and a prompt."""


class Ahead:
    """What an evaluation has to read, unit by unit. Encoders other than ours are not counted."""

    def __init__(self, *, show: bool) -> None:
        self.show = show
        looks: dict[str, Any] = {"desc": "evaluation", "unit": "token", "unit_scale": True, **bar_options(shown=show)}
        self._bar: tqdm[Any] = tqdm(total=0, smoothing=0, **looks)
        self._left: dict[Unit, float] = {}
        self._plain: dict[str, int] = {}
        self._lines: dict[str, tuple[float, float]] = {}
        self._counter: Encoder | None = None
        self._mark = time.time(), 0
        """When the last part ended, and how many tokens had been read by then."""

    def watch(self, encoder: TextEncoder) -> None:
        """Count what this encoder reads from now on."""
        own = encoder.behind if isinstance(encoder, CachedEncoder) else encoder
        if self.show and isinstance(own, Encoder):
            self._counter = own
            own.tally.listener = self._advance

    def plan(self, units: Iterable[Unit], parts: Sequence[Sequence[str]], share: float = 1.0) -> None:
        """These texts will be read too; `share` is how likely that is."""
        if self._counter is not None:
            for unit in units:
                tokens = sum(self._tokens(unit[1], texts) for texts in parts)
                self._left[unit] = self._left.get(unit, 0.0) + share * tokens
            self._refresh()

    def passed(self, unit: Unit, texts: Sequence[str]) -> None:
        """These texts were read, or their vectors were there already."""
        if unit in self._left:
            planned = self._tokens(unit[1], texts)
            self._left[unit] = max(0.0, self._left[unit] - planned)
            self._set_clock(planned)
            self._refresh()

    def done(self, *units: Unit) -> None:
        """Nothing of these units is left."""
        for unit in units:
            self._left.pop(unit, None)
        self._refresh()

    @property
    def total(self) -> int:
        """Tokens that were read, and those that are left."""
        return round(self._bar.n + sum(self._left.values()))

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def _advance(self, tokens: int) -> None:
        """Within a part, the total stays: what is read is taken off the estimate at the end of the part."""
        self._bar.update(tokens)

    def _set_clock(self, planned: float) -> None:
        """The time of a part of which nothing was read says nothing of the speed of reading, and is left out."""
        now, read = time.time(), int(self._bar.n)
        if read - self._mark[1] < KEPT * planned:
            self._bar.start_t += now - self._mark[0]
        self._mark = now, read

    def _refresh(self) -> None:
        """The bar shows the new total with the next tokens: `tqdm.refresh` would show it before its delay is over."""
        self._bar.total = self.total

    def _tokens(self, prompt: str, texts: Sequence[str]) -> float:
        if self._counter is None or not texts:
            return 0.0
        distinct = dict.fromkeys(texts)
        self._count([text for text in distinct if text not in self._plain])
        if prompt not in self._lines:
            self._lines[prompt] = _line(self._counter, prompt, list(distinct)[:: max(1, len(distinct) // SAMPLE)])
        slope, constant = self._lines[prompt]
        return slope * sum(self._plain[text] for text in distinct) + constant * len(distinct)

    def _count(self, texts: Sequence[str]) -> None:
        """Tokens of texts alone, at most as many as are read."""
        assert self._counter is not None
        ids = plain_ids(self._counter.tokenizer, list(map(clean_surrogates, texts))) if texts else []
        limit = self._counter.max_length
        self._plain |= {text: min(len(row), limit) for text, row in zip(texts, ids, strict=True)}


def _line(encoder: Encoder, prompt: str, texts: Sequence[str]) -> tuple[float, float]:
    """`_estimate`, and nothing for a prompt that cannot be used with this encoder: it is skipped later."""
    try:
        return _estimate(encoder, prompt, texts)
    except UserError:
        return 0.0, 0.0


def _estimate(encoder: Encoder, prompt: str, texts: Sequence[str]) -> tuple[float, float]:
    """Tokens that are computed for a text: so many for each of its own, and so many besides."""
    members = encoder.ensemble(prompt).members
    own = np.array([len(row) for row in plain_ids(encoder.tokenizer, list(map(clean_surrogates, texts)))], dtype=float)
    read = np.zeros(len(texts))
    for member in members:
        ids = encoder.tokenize_with(member, texts)
        shared = len(common_prefix(ids)) if len(ids) > 1 else 0
        read += np.array([len(row) for row in ids]) - (shared if shared >= WORTHWHILE else 0)
    if np.ptp(own) == 0:
        return float(len(members)), float((read - len(members) * own).mean())
    slope, constant = np.polyfit(own, read, 1)
    return float(slope), float(constant)
