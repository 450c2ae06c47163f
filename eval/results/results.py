"""Rows of results, with what each is about as fields, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.results.headline import Headline
from eval.selection.choose import Selection
from eval.systems.subject import Subject
from eval.tasks.task import Figure

AVERAGE = "average"
"""The plain mean over the similarity tests, as a task of its own."""


@dataclass(frozen=True)
class Result:
    """One figure. `low` and `high` bound its 95 % interval; None where there is none."""

    subject: Subject
    task: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    clean: bool = False
    """Measured only on the items that training has not seen."""
    chosen_on: str | None = None
    """The data that decided layer and strength; None where nothing was chosen."""
    dev: float | None = None
    """In the main metric's row: the score on dev data, by which systems are chosen."""
    chosen: str = ""
    """In the main metric's row: the threshold, k or C that dev chose."""
    dev_data: str | None = None
    """The name of the data that `dev` was measured on, and"""
    dev_metric: str | None = None
    """its metric: not this row's where another task's dev data chose."""
    selection: Selection | None = None
    """How the system's reading came about; None for what is no system."""
    no_interval: str = ""
    """Why `low` and `high` are None, such as `3 of 20 classes with fewer than 5 texts`."""
    conservative: str = ""
    """Why the interval is wider than it had to be, such as `2 runs`."""

    @property
    def system(self) -> str:
        """The name of what the row is about."""
        return self.subject.name

    @classmethod
    def from_figure(
        cls,
        subject: Subject,
        task: str,
        figure: Figure,
        *,
        chosen_on: str | None = None,
        dev: float | None = None,
        chosen: str = "",
        dev_data: str | None = None,
        dev_metric: str | None = None,
        selection: Selection | None = None,
    ) -> Result:
        """The figure with its interval."""
        low, high = figure.bounds
        return cls(
            subject,
            task,
            figure.metric,
            figure.value,
            low,
            high,
            figure.n,
            figure.clean,
            chosen_on,
            dev,
            chosen,
            dev_data,
            dev_metric,
            selection,
            figure.no_interval,
            figure.conservative,
        )


@dataclass(frozen=True)
class TaskTable:
    """A task's figures. `metric` is its main one: systems are ranked by it. `note` says what a reader must know."""

    name: str
    metric: str
    rows: Sequence[Result]
    note: str = ""
    headline: Headline | None = None
    """None for tasks that another package measures."""
    kind: str = ""
    """The section of the configuration that the task belongs to, or mteb and the type of its task."""

    @property
    def columns(self) -> list[tuple[str, bool]]:
        """Metrics, and whether they are of the clean items; the main one first."""
        return list(dict.fromkeys([(self.metric, False), *((row.metric, row.clean) for row in self.rows)]))
