"""How options of the old tree are called in the present one, by verb.

The names come from the product's own table, `dec2vec/config/renames.py`, so that an option counts as renamed or removed
only if a user who types its former name is told so. Whatever else changes on a help page is a difference.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

TABLE = Path(__file__).resolve().parents[3] / "dec2vec" / "config" / "renames.py"
VERBS = ("train", "eval", "mine")


def read_table(path: Path) -> dict[str, Any]:
    """The tables of the product as they stand in its source; nothing else of it is imported."""
    return runpy.run_path(str(path))


_TABLE = read_table(TABLE)
RENAMED: dict[str, dict[str, str]] = dict.fromkeys(VERBS, _TABLE["RENAMED"])
"""Old name -> new name."""

VALUES: dict[str, dict[str, str]] = _TABLE["RENAMED_VALUES"]
"""Of an option: old word -> new word."""

PRIVATE: dict[str, set[str]] = {verb: set(_TABLE["REMOVED"]) for verb in VERBS}
"""Options that users no longer have."""

ADDED: dict[str, set[str]] = {}
"""Options that the old tree did not have."""

CHANGED: dict[str, dict[str, tuple[str, str]]] = {"export": {"run": (".", "required")}}
"""Defaults that the old page shows and the new one does not: `dec2vec export` without a run was refused before, too."""
