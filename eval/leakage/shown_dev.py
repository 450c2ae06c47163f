"""Dev pairs that tuning has shown are no dev pairs: a threshold chosen on them is too strict for new text.

They are left out for every system alike, so that all choose on the same pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from eval.leakage.overlap import EvaluationSet, measure
from eval.tasks.gap import GapTask
from eval.tasks.pair_files import LabelledPairs
from eval.tasks.pairs import PairsTask
from eval.tasks.task import Task

FEWEST = 50
"""Pairs that a threshold needs; with fewer left nothing is left out."""


@dataclass(frozen=True, eq=False)
class FreshDev:
    """The tasks, and a line for each whose dev pairs are fewer now or should be."""

    tasks: list[Task]
    notes: list[str]


def without_shown_dev(tasks: Sequence[Task], trained: Mapping[str, Sequence[str]]) -> FreshDev:
    """`trained`: by file the texts that tuned runs were trained on; near copies count."""
    found = FreshDev([], [])
    for task in tasks:
        if trained and isinstance(task, PairsTask | GapTask) and task.dev_pairs is not None:
            found.tasks.append(_fresh(task, task.dev_pairs, trained, found.notes))
        else:
            found.tasks.append(task)
    return found


def _fresh(
    task: PairsTask | GapTask, dev: LabelledPairs, trained: Mapping[str, Sequence[str]], notes: list[str]
) -> Task:
    rows = _unseen(dev, trained)
    if len(rows) == len(dev):
        return task
    shown = (
        f"{len(dev) - len(rows):,} of the {len(dev):,} dev pairs of {task.name} have a text that is in, or close to,"
    )
    shown += " the tuned runs' training text"
    kept = dev.at(rows)
    if len(kept) < FEWEST or not kept.is_of_both_kinds:
        notes.append(f"Warning: {shown}; too few are left, so that choices are made on them all the same.")
        return task
    notes.append(f"Note: {shown}; nothing is chosen on them.")
    return replace(task, dev_pairs=kept)


def _unseen(dev: LabelledPairs, trained: Mapping[str, Sequence[str]]) -> Int64[np.ndarray, " kept"]:
    pairs = [(first, second) for first, second in zip(dev.first, dev.second, strict=True)]
    seen = measure(trained, [EvaluationSet.of_items("dev", pairs)])
    return np.flatnonzero(seen.clean["dev"])
