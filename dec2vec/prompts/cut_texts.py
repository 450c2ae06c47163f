"""How many texts `max_length` cuts: counted where texts are tokenized, each distinct text once."""

from __future__ import annotations

from collections.abc import Sequence


class CutTexts:
    """Distinct texts that were tokenized, with whatever prompts and sides, and those of them that were cut."""

    def __init__(self) -> None:
        self._read: set[int] = set()
        self._cut: set[int] = set()
        self._settled = (0, 0)

    def add(self, texts: Sequence[str], is_cut: Sequence[bool]) -> None:
        """Count texts; those that were counted before are not counted again."""
        self._read.update(map(hash, texts))
        self._cut.update(hash(text) for text, flag in zip(texts, is_cut, strict=True) if flag)

    def settle(self) -> None:
        """Keep the numbers and forget the texts: for corpora of any size, a part of them at a time."""
        self._settled = (self.texts, self.cut)
        self._read.clear()
        self._cut.clear()

    @property
    def texts(self) -> int:
        """Number of distinct texts."""
        return self._settled[0] + len(self._read)

    @property
    def cut(self) -> int:
        """Number of those that were cut."""
        return self._settled[1] + len(self._cut)

    def line(self, max_length: int | None) -> str:
        """A line for the terminal; empty if no text was cut."""
        if not self.cut:
            return ""
        return (
            f"{self.cut:,} of {self.texts:,} different texts are longer than max_length ({max_length} tokens with "
            "their prompt): only the beginning of each was read\n"
        )
