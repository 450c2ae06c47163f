"""What a tuned run was made with, apart from its seed: only if that is equal are two runs seeds of one recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dec2vec.config.renames import translated
from dec2vec.config.yaml_file import read_mapping
from dec2vec.errors import UserError

Recipe = Mapping[str, object]
"""Value by dotted option, such as `optim.lr`."""
SECTIONS = ("model", "lora", "data", "loss", "optim", "batch")
"""Of a training configuration; the others say where a run is written, watched and judged."""
MACHINE = frozenset({"model.device", "model.autocast"})


def read_recipe(run: str) -> Recipe | None:
    """From the `config.yaml` of a run folder, or of the run that an adapter folder lies in; None without one."""
    try:
        tree = run_config(run)
    except UserError:
        return None
    if tree is None:
        return None
    options: dict[str, object] = {}
    for section in SECTIONS:
        options |= _flat(section, tree.get(section))
    return {name: value for name, value in options.items() if name not in MACHINE}


def unlike(label: str, recipes: Mapping[str, Recipe | None]) -> str | None:
    """One line where runs that are taken as seeds of one recipe are not; `recipes` by run."""
    unknown = [run for run, found in recipes.items() if not found]
    known = {run: found for run, found in recipes.items() if found}
    for option in sorted({option for found in known.values() for option in found}):
        values = {run: repr(found.get(option)) for run, found in known.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{run} {value}" for run, value in values.items())
            return f"Warning: {label}: the runs differ in other settings than the seed: {option} is {listed}."
    if unknown:
        return (
            f"Note: {label} are treated as seeds because of their names; there is no record of how "
            f"{', '.join(unknown)} was trained."
        )
    return None


def _flat(name: str, value: Any) -> dict[str, object]:
    if isinstance(value, dict):
        parts = [_flat(f"{name}.{key}", item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        parts = [_flat(f"{name}.{index}", item) for index, item in enumerate(value)]
    else:
        return {} if value is None else {name: value}
    return {key: item for part in parts for key, item in part.items()}


PARTS = frozenset({"adapter", "model"})
"""Folders within a run."""


def run_home(run: str) -> Path:
    """The run folder, also of an adapter or model folder in it."""
    folder = Path(run).resolve()
    return folder.parent if folder.name in PARTS else folder


def run_config(run: str) -> dict[str, Any] | None:
    """`config.yaml` of a run folder, or of the run that an adapter or model folder lies in; None without one.

    UserError for a file that is no YAML mapping.
    """
    folder = Path(run)
    folders = [folder, folder.resolve().parent] if folder.resolve().name in PARTS else [folder]
    file = next((path / "config.yaml" for path in folders if (path / "config.yaml").is_file()), None)
    return None if file is None else translated(read_mapping(file))
