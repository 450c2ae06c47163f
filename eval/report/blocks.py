"""What a section of the page is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """`best` names the row to mark; a table with a `fold` is closed until its line is clicked."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: str | None = None
    fold: str = ""


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
