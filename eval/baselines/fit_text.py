"""What a baseline is fitted on for a task: the text that the task itself gives, or else training-side text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.tasks.task import DescribedTexts, Task

TRAINING = "training-side texts"


@dataclass(frozen=True, eq=False)
class FitGroup:
    """Tasks for which one fit will do."""

    text: DescribedTexts
    tasks: list[Task[Any]]


def training_text(texts: Sequence[str]) -> DescribedTexts:
    """Text for the tasks that give none."""
    return DescribedTexts(texts, f"{len(texts):,} {TRAINING}")


def fit_text(task: Task[Any], training: DescribedTexts) -> DescribedTexts | None:
    """None where the task gives no text, and there is no training-side text either."""
    own = task.own_text
    if own is not None:
        return own
    return training if training.texts else None


def fit_groups(tasks: Sequence[Task[Any]], training: DescribedTexts) -> list[FitGroup]:
    """Tasks by the text that serves them, in their order; those without any text are left out."""
    groups: list[FitGroup] = []
    for task in tasks:
        text = fit_text(task, training)
        if text is None:
            continue
        same = next((group for group in groups if _is_same(group.text, text)), None)
        if same is None:
            groups.append(FitGroup(text, [task]))
        else:
            same.tasks.append(task)
    return groups


def _is_same(one: DescribedTexts, other: DescribedTexts) -> bool:
    return one.described == other.described and (one.texts is other.texts or list(one.texts) == list(other.texts))
