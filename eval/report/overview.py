"""Every task in one table: the tuned system against the best untuned one, both chosen on dev."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval.report.report import Report, hundred
from eval.results.results import AVERAGE
from eval.results.task_results import TaskRow, TaskTable

HEADER = ("task", "difference", "95 % interval", "tuned is", "tuned", "best untuned", "figure x 100")


@dataclass(frozen=True)
class Duel:
    """Two systems of a task, and the row of their difference."""

    ours: TaskRow
    rival: TaskRow
    gap: TaskRow


def overview_rows(report: Report) -> list[list[str]]:
    """A row a similarity test, their average, and a row a further task; empty where nothing tuned was compared."""
    return [*_similarity(report), *(_row(task.name, found) for task in report.tasks for found in duels(task))]


def duels(task: TaskTable) -> list[Duel]:
    """The task's tuned and untuned leaders on its main metric: none or one."""
    rows = {row.system: row for row in task.rows if row.metric == task.metric}
    return [
        Duel(rows[ours], rows[rival], row)
        for name, row in rows.items()
        for ours, rival in _split(name)
        if ours in rows and rival in rows
    ]


def _split(name: str) -> Iterator[tuple[str, str]]:
    """`A minus B`; a prompt may hold ` minus ` too."""
    parts = name.split(" minus ")
    for place in range(1, len(parts)):
        yield " minus ".join(parts[:place]), " minus ".join(parts[place:])


def _similarity(report: Report) -> list[list[str]]:
    found, metric = report.comparison, "spearman_all_difference"
    name = "" if found is None else f"{found.tuned} minus {found.untuned}"
    if found is None or not report.has(name, AVERAGE, metric):
        return []
    rows = []
    for task in report.columns:
        gap = report.result(name, task, metric)
        ours, rival = report.result(found.tuned, task), report.result(found.untuned, task)
        cells = _cells(ours.value, rival.value, gap.value, (gap.ci_low, gap.ci_high))
        rows.append(["average of the similarity tests" if task == AVERAGE else task, *cells, "Spearman"])
    return rows


def _row(name: str, duel: Duel) -> list[str]:
    low, high = duel.gap.low, duel.gap.high
    bounds = None if low is None or high is None else (low, high)
    return [name, *_cells(duel.ours.value, duel.rival.value, duel.gap.value, bounds), duel.gap.metric]


def _cells(ours: float, rival: float, gap: float, bounds: Sequence[float] | None) -> list[str]:
    """Nothing is called higher or lower that the interval does not show to be so."""
    figures = [hundred(ours), hundred(rival)]
    if bounds is None:
        return [signed(gap), "–", "–", *figures]
    low, high = bounds
    verdict = "higher" if low > 0 else "lower" if high < 0 else "tied" if low <= 0 <= high else "–"
    return [signed(gap), f"{signed(low)} to {signed(high)}", verdict, *figures]


def signed(value: float) -> str:
    """A difference x 100 with its sign."""
    return f"{100 * value:+.2f}" if value == value else hundred(value)
