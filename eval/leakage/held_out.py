"""Texts that nothing may be fitted on: those that are scored, and those that choices are made on."""

from __future__ import annotations

from collections.abc import Sequence

from eval.tasks.sts import StsTask
from eval.tasks.task import Task
from eval.tasks.topics import TrainedTask


def held_out_texts(similarity: Sequence[StsTask], further: Sequence[Task]) -> list[str]:
    """Of every task's test and dev. A whitening fitted on dev texts looks better there than it is, and dev prefers it.

    What a task's own classifier learns from is training-side text.
    """
    found = [text for task in similarity for text in task.texts]
    for task in further:
        found += [*task.test.queries, *task.test.documents]
        if isinstance(task, TrainedTask):
            found += [] if task.data.dev is None else task.data.dev.texts
        elif task.dev is not None:
            found += [*task.dev.queries, *task.dev.documents]
    return found
