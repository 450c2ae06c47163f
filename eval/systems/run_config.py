"""The configuration that a tuned run keeps of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dec2vec.config.yaml_file import read_mapping

PARTS = frozenset({"adapter", "model"})
"""Folders within a run."""


def run_config(run: str) -> dict[str, Any] | None:
    """`config.yaml` of a run folder, or of the run that an adapter or model folder lies in; None without one.

    UserError for a file that is no YAML mapping.
    """
    folder = Path(run)
    places = [folder, folder.resolve().parent] if folder.resolve().name in PARTS else [folder]
    file = next((place / "config.yaml" for place in places if (place / "config.yaml").is_file()), None)
    return None if file is None else dict(read_mapping(file))
