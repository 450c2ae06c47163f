"""Training-side texts that are larger than memory: all of them a block at a time, and a sample to fit on.

Overlap is measured against all texts. Whatever is fitted on text is fitted on the sample, as it would be on a sample of
a list; so a `StreamedTexts` is a sequence of its sample.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import overload

SAMPLE = 100_000
"""Number of different texts of a sample."""
Blocks = Callable[[], Iterator[Sequence[str]]]


@dataclass(frozen=True, eq=False)
class StreamedTexts(Sequence[str]):
    """A sample of texts, and all of them a block at a time."""

    read: Blocks = field(repr=False)
    """Reads all texts anew."""
    sources: tuple[object, ...] = ()
    """What is read; equal for the same texts."""

    def __len__(self) -> int:
        return len(self.sample)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self.sample[index]

    @property
    def sample(self) -> list[str]:
        """Different texts, the same in every run."""
        return self._sampled[0]

    @property
    def total(self) -> int:
        """Number of texts, with repetitions."""
        return self._sampled[1]

    @cached_property
    def _sampled(self) -> tuple[list[str], int]:
        """The texts with the smallest digests, and the number of all texts."""
        kept: dict[str, bytes] = {}
        total, highest = 0, b"\xff" * 8
        for block in self.read():
            total += len(block)
            digests = ((text, _digest(text)) for text in block)
            kept.update((text, digest) for text, digest in digests if digest <= highest)
            if len(kept) > 2 * SAMPLE:
                kept = dict(sorted(kept.items(), key=lambda item: item[1])[:SAMPLE])
                highest = next(reversed(kept.values()))
        return sorted(kept, key=kept.__getitem__)[:SAMPLE], total

    def note(self, name: str) -> str:
        """What a report says of the part that was read."""
        share = 100 * min(1.0, len(self) / max(1, self.total))
        return (
            f"{name} is streamed: overlap was looked for in all of its {self.total:,} texts; what is fitted on "
            f"training text is fitted on {len(self):,} of them ({share:.2g} %)"
        )


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def blocks_of(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """All texts: those of a list at once."""
    return texts.read() if isinstance(texts, StreamedTexts) else iter([texts])


def joined_texts(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """The different texts of all parts, as a list unless a part is streamed."""
    streamed = [part for part in parts if isinstance(part, StreamedTexts)]
    if not streamed:
        return list(dict.fromkeys(text for part in parts for text in part))
    if len(parts) == 1:
        return streamed[0]
    sources = dict.fromkeys(source for part in streamed for source in part.sources)
    return StreamedTexts(lambda: (block for part in parts for block in blocks_of(part)), tuple(sources))


def left_over(texts: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """The texts that are not among the known ones."""
    if isinstance(texts, StreamedTexts):
        same = isinstance(known, StreamedTexts) and set(texts.sources) <= set(known.sources)
        return [] if same else texts
    rest = dict.fromkeys(texts)
    for block in blocks_of(known):
        for text in block:
            rest.pop(text, None)
    return list(rest)
