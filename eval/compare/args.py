"""Options of `dec2vec compare`."""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT


@dataclass(frozen=True, config=STRICT)
class CompareArgs:
    """Set the reports of several runs side by side."""

    runs: tuple[str, ...] = ()
    """Run folders, report folders or report.json files."""
    output: Path | None = None
    """.html or .md file to write the tables to as well."""
    group: bool = False
    """Take all runs as seeds of one recipe; without it, those whose names differ only in a trailing -seedN."""
