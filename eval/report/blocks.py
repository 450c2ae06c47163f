"""What a section of the page is made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table with a `fold` is closed until its line is clicked."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: str | None = None
    """The row to mark, by its first cell."""
    fold: str = ""
    tuned: Collection[str] = ()
    """The rows of tuned systems, by their first cells."""


@dataclass(frozen=True)
class Picture:
    """A file of `plots.draw`, and what it shows in words."""

    file: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and tables and pictures below them."""

    title: str
    text: Sequence[str]
    blocks: Sequence[Table | Picture]
