"""Results of a further task (pairs, topics, clustering, retrieval ...), as the report shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TaskRow:
    """One figure of one system. `low` and `high` bound its 95 % interval; None where there is none."""

    system: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    dev: float | None = None
    """Of the main metric's row: the score by which the reading was chosen (see the table's note); None where nothing
    was chosen."""
    chosen: str = ""
    """Of the main metric's row: the threshold, k or C that dev chose."""


@dataclass(frozen=True)
class TaskTable:
    """A task's figures. `metric` is its main one: systems are ranked by it. `note` says what a reader must know."""

    name: str
    metric: str
    rows: Sequence[TaskRow]
    note: str = ""

    @property
    def metrics(self) -> list[str]:
        """The main one first."""
        return list(dict.fromkeys([self.metric, *(row.metric for row in self.rows)]))
