"""How much of the disk the vectors of an evaluation will take, before any of them is made."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dec2vec.errors import UserError

HALF = 2
"""Bytes of one number of a vector in half precision."""
DOUBLE = 8
"""Bytes of one number of the moments, a mean and a matrix of the width of the vectors, from which post-processings are
fitted."""
KEY = 18
"""Bytes of a vector besides its numbers."""


@dataclass(frozen=True)
class Stored:
    """What is kept of some prompts: a vector of each text in each view, and moments of each view."""

    prompts: int
    texts: int
    views: int
    has_moments: bool = False

    def size(self, width: int) -> int:
        """In bytes. Views that half precision does not suffice for take twice as much: this is the least."""
        vectors = self.texts * self.views * (HALF * width + KEY)
        return self.prompts * (vectors + (DOUBLE * width * (width + 1) * self.views if self.has_moments else 0))


def folder_size(folder: Path) -> int:
    """Bytes of all files below it; 0 for a folder that is not there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_room(folder: Path, wanted: Sequence[Stored], width: int) -> None:
    """UserError where the disk is certain to fill up. What an earlier evaluation left there is not written again."""
    needed = sum(stored.size(width) for stored in wanted) - folder_size(folder)
    free = shutil.disk_usage(next(path for path in (folder, *folder.resolve().parents) if path.exists())).free
    if needed > free:
        raise UserError(
            f"cache {folder}: the vectors of this evaluation take at least {needed / 1e9:.1f} GB, and the disk has "
            f"{free / 1e9:.1f} GB left; use fewer systems.layers or systems.poolings, systems.shortlist, or another "
            "disk (--cache FOLDER)"
        )
