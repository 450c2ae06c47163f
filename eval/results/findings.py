"""What was measured, by task, in the order in which systems were judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.results.diagnostics import Confusion, Mistakes, PrecisionRecall, Scatter
from eval.results.effort import Effort
from eval.results.results import TaskTable
from eval.results.task_results import leader, task_table
from eval.results.truncation import Truncation
from eval.selection.choose import Choice
from eval.selection.judge import Measured
from eval.selection.shortlist import Shortlist
from eval.systems.system import System
from eval.tasks.pair_task import PairEvidence
from eval.tasks.sts import StsTask
from eval.tasks.task import Task
from eval.tasks.topic_evidence import TopicEvidence

SHOWN_CLASSES = 30
"""A confusion matrix of more classes can't be read."""


@dataclass(eq=False)
class Findings:
    """Rows by the name of their task; `further` are the tasks besides similarity."""

    dev: StsTask | None
    tests: Sequence[StsTask]
    further: Sequence[Task[Any]]
    rows: dict[str, list[Measured]] = field(default_factory=dict)
    truncation: list[Truncation] = field(default_factory=list)
    """Of every task, encoder and prompt how many texts were cut."""
    shortlist: Shortlist | None = None
    """The prompts with their dev scores, where some were left out after a first pass."""

    efforts: dict[str, Effort] = field(default_factory=dict)
    """By row what it costs."""

    def add(self, task: str, measured: Sequence[Measured]) -> None:
        """More systems of one task."""
        self.rows.setdefault(task, []).extend(measured)

    def add_further(self, task: Task[Any], measured: Sequence[Measured]) -> None:
        """The same for a task besides similarity: of vectors and decisions only the headline's are kept."""
        self.add(task.name, measured)
        rows = self.rows[task.name]
        kept = {id(row) for row in _leaders(rows, task)}
        rows[:] = [row if id(row) in kept else row.without_evidence() for row in rows]

    @property
    def can_choose(self) -> bool:
        """Whether there are dev data at all."""
        return any(task.dev is not None for task in self.tasks)

    @property
    def is_undecided(self) -> bool:
        """Whether there are no dev data for some task, not even those of the similarity tests."""
        return self.dev is None and any(task.dev is None for task in self.tasks)

    @property
    def similarity(self) -> list[StsTask]:
        """The dev file first; none in an evaluation of other tasks alone."""
        return [*([] if self.dev is None else [self.dev]), *self.tests]

    @property
    def tasks(self) -> list[Task[Any]]:
        """Similarity first."""
        return [*self.similarity, *self.further]

    @property
    def choices(self) -> list[Choice]:
        """The systems of the similarity tests, or of the similarity dev file where it alone is given."""
        rows = [row for task in self.similarity[:1] for row in self.rows.get(task.name, [])]
        return [row.choice for row in rows if row.choice is not None]

    def on_tests(self, system: System) -> list[Measured]:
        """What one system reached on each similarity test."""
        rows = [row for task in self.tests for row in self.rows.get(task.name, [])]
        return [row for row in rows if row.choice is not None and row.choice.system == system]

    def tables(self) -> list[TaskTable]:
        """Every figure of every system, and the difference of the tuned and the best untuned one."""
        return [task_table(task, self.rows[task.name]) for task in self.further if task.name in self.rows]

    def scatter(self) -> list[Scatter]:
        """Before and after tuning, of the tasks that have classes."""
        return [
            Scatter.from_vectors(title, decided.vectors, [decided.classes[code] for code in decided.gold])
            for title, decided in self._topics()
        ]

    def confusions(self) -> list[Confusion]:
        """Of the tasks with few enough classes."""
        return [
            Confusion(title, decided.classes, decided.confusion)
            for title, decided in self._topics()
            if len(decided.classes) <= SHOWN_CLASSES
        ]

    def mistakes(self) -> list[Mistakes]:
        """The surest ones of each topic task's headline system: the tuned one that leads, or else the untuned one."""
        mistakes: dict[str, Mistakes] = {}
        for task, row in self._leading():  # the tuned one comes last
            if isinstance(row.evidence, TopicEvidence) and row.evidence.is_finite:
                mistakes[task] = Mistakes.from_evidence(task, row.name, row.evidence)
        return list(mistakes.values())

    def curves(self) -> list[PrecisionRecall]:
        """Of pair matching."""
        curves = []
        for task, row in self._leading():
            decided = row.evidence
            if isinstance(decided, PairEvidence) and decided.threshold is not None and decided.is_finite:
                title = f"{task}: {row.name}"
                curves.append(PrecisionRecall.from_scores(title, decided.cosines, decided.labels, decided.threshold))
        return curves

    def _topics(self) -> list[tuple[str, TopicEvidence]]:
        """Title and decisions of the leaders of topic tasks."""
        return [
            (f"{task}: {row.name}", row.evidence)
            for task, row in self._leading()
            if isinstance(row.evidence, TopicEvidence) and row.evidence.is_finite
        ]

    def _leading(self) -> list[tuple[str, Measured]]:
        """By task the systems of its headline, the untuned one first."""
        tasks = [task for task in self.further if task.name in self.rows]
        return [(task.name, row) for task in tasks for row in _leaders(self.rows[task.name], task)]


def _leaders(rows: Sequence[Measured], task: Task[Any]) -> list[Measured]:
    pair = [leader(rows, is_tuned=is_tuned, has_dev=task.dev is not None) for is_tuned in (False, True)]
    return [row for row in pair if row is not None]
