"""What a baseline is fitted on for a task: the text that the task itself gives, or else training-side text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.leakage.training_text import sample_fit_text, without
from eval.tasks.task import DescribedTexts, Task

TRAINING = "training-side texts"
MOST = 200_000
"""Training-side texts that a baseline which nobody asked for is fitted on, so that it stays quick."""


@dataclass(frozen=True, eq=False)
class FitGroup:
    """Tasks for which one fit will do."""

    text: DescribedTexts
    tasks: list[Task[Any]]


def training_text(
    sources: Mapping[str, Sequence[str]], evaluated: Sequence[str], most: int | None = None, seed: int = 0
) -> DescribedTexts:
    """Text for the tasks that give none: all of `sources` that is not evaluated, or a sample of it."""
    total = len(set().union(*sources.values()))
    if most is None or total <= most:
        texts = without(sources, evaluated)
        return DescribedTexts(texts, f"{len(texts):,} {TRAINING}")
    texts = sample_fit_text(sources, evaluated, most, seed).sentences
    return DescribedTexts(texts, f"a sample of {len(texts):,} of {total:,} {TRAINING}")


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
