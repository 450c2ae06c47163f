"""Options of `dec2vec export`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path

from pydantic.dataclasses import dataclass

from dec2vec.config.load import STRICT


@dataclass(frozen=True, config=STRICT)
class ExportArgs:
    """Write a finished run for others to load, and push it to the Hub if asked."""

    run: Path = field(default_factory=Path)
    """Run folder, with its config.yaml and adapter/."""
    to: Path | None = None
    """Folder to write; None takes model/ in the run folder."""
    merge: bool = False
    """Fold the adapter into the weights: larger, and loads without the base model."""
    push: str | None = None
    """Hub repository user/name to create if missing and upload to."""
    private: bool = False
    """Create the repository private."""
    revision: str | None = None
    """Branch to push to, made if missing; None is the main one."""
    tag: str | None = None
    """Set this tag on what was pushed, such as v1.0."""
