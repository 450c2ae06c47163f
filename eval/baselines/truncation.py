"""How many of a task's texts the other encoders among the baselines cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dec2vec.prompts.library_cut import library_limit
from eval.baselines.baseline import Baseline
from eval.baselines.encoder import OutsideEncoder
from eval.results.truncation import Truncation, sides_of
from eval.tasks.task import Task


def outside_truncation(baselines: Sequence[Baseline], tasks: Sequence[Task[Any]]) -> Iterator[Truncation]:
    """By encoder, task and side; encoders that read texts of any length have no row."""
    for baseline in baselines:
        if not isinstance(baseline, OutsideEncoder):
            continue
        limit = library_limit(baseline.load())
        for task in tasks if limit is not None else ():
            for part, texts, side in sides_of(task):
                cut = sum(baseline.is_cut(texts, None if part == "texts" else side))
                yield Truncation(task.name, part, baseline.name, None, None, limit or 0, len(texts), cut)
