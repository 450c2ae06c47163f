"""Rows of results, with what each is about as fields, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.metrics.statistics import interval
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
    """In the main metric's row: the score by which the system was chosen."""
    chosen: str = ""
    """In the main metric's row: the threshold, k or C that dev chose."""

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
    ) -> Result:
        """The figure with its interval."""
        bounds = interval(figure.value, figure.resampled)
        return cls(
            subject,
            task,
            figure.metric,
            bounds.value,
            bounds.low,
            bounds.high,
            figure.n,
            figure.clean,
            chosen_on,
            dev,
            chosen,
        )


@dataclass(frozen=True)
class TaskTable:
    """A task's figures. `metric` is its main one: systems are ranked by it. `note` says what a reader must know."""

    name: str
    metric: str
    rows: Sequence[Result]
    note: str = ""

    @property
    def columns(self) -> list[tuple[str, bool]]:
        """Metrics, and whether they are of the clean items; the main one first."""
        return list(dict.fromkeys([(self.metric, False), *((row.metric, row.clean) for row in self.rows)]))
