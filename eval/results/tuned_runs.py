"""What a report says of each tuned run: which weights were measured, and what it was chosen on before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.dev_record import read_record
from dec2vec.identity import identify
from eval.systems.recipes import run_config, run_home
from eval.systems.system import run_name
from eval.tasks.sts import read_similarity
from eval.tasks.task import Task

PART = 0.5
"""From this share of its items on, a test that repeats the pairs of a dev file is that dev file."""


def describe_tuned(runs: Sequence[str], tasks: Sequence[Task[Any]]) -> dict[str, dict[str, object]]:
    """By name, as plain JSON: digests of the weights and the whitening, and the tasks that chose the checkpoint."""
    found: dict[str, dict[str, object]] = {}
    for run in runs:
        identity = identify(run)
        if identity is not None:
            found[run_name(run)] = {
                "weights": identity.weights,
                "whitening": identity.whitening,
                "chosen_on": chosen_on(run, tasks),
            }
    return found


def chosen_on(run: str, tasks: Sequence[Task[Any]]) -> list[str]:
    """The tasks that consist of pairs of a dev file on which the run's checkpoint, or one merged into it, was chosen.

    Where that file can't be read any more, the task with its name.
    """
    return list(dict.fromkeys(name for dev in _dev_files(run) for name in _repeating(dev, tasks)))


def _repeating(dev: str, tasks: Sequence[Task[Any]]) -> list[str]:
    try:
        data = read_similarity(dev)
    except UserError:
        return [task.name for task in tasks if task.name == Path(dev).stem]
    pairs = {frozenset(pair) for pair in zip(data.sentences1, data.sentences2, strict=True)}
    return [task.name for task in tasks if _share(task, pairs) >= PART]


def _dev_files(run: str) -> list[str]:
    """Of the run, and of the runs that it was merged from as far as they are still there."""
    try:
        parents = json.loads((Path(run) / "merge.json").read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        parents = []
    return [*_own_dev_files(run), *(dev for parent in parents for dev in _dev_files(str(parent)))]


def _own_dev_files(run: str) -> list[str]:
    """The similarity files of `eval.dev`, if it is such a file, or a list of tasks: of these those that chose."""
    try:
        section, record = (run_config(run) or {}).get("eval"), read_record(run_home(run))
    except UserError:
        return []
    dev = section.get("dev") if isinstance(section, dict) else None
    if not isinstance(dev, list):
        return [dev] if isinstance(dev, str) else []
    files = [task.get("similarity") if isinstance(task, dict) else task for task in dev]
    named = [file for file in files if isinstance(file, str)]
    return named if record is None else [file for file in named if Path(file).stem in record.names]


def _share(task: Task[Any], pairs: set[frozenset[str]]) -> float:
    items = task.items or []
    return sum(frozenset(item) in pairs for item in items) / max(len(items), 1)
