"""Every task in one table: the tuned system against the best untuned one, both chosen on dev."""

from __future__ import annotations

from dataclasses import dataclass

from eval.report.report import Report, hundred
from eval.results.results import AVERAGE, Result, TaskTable

HEADER = ("task", "difference", "95 % interval", "tuned is", "tuned", "best untuned", "figure x 100")


@dataclass(frozen=True)
class Duel:
    """Two systems of a task, and the row of their difference."""

    ours: Result
    rival: Result
    gap: Result


def overview_rows(report: Report) -> list[list[str]]:
    """A row a similarity test, their average, and a row a further task; empty where nothing tuned was compared."""
    further = [(task.name, find_duel(task)) for task in report.tasks]
    return [*_similarity(report), *([name, *_cells(duel), duel.gap.metric] for name, duel in further if duel)]


def find_duel(task: TaskTable) -> Duel | None:
    """The task's tuned and untuned leaders on its main metric."""
    rows = {row.system: row for row in task.rows if row.metric == task.metric and not row.clean}
    gap = next((row for row in rows.values() if row.subject.kind == "difference"), None)
    if gap is None:
        return None
    ours, rival = (rows[name] for name in gap.subject.of)
    return Duel(ours, rival, gap)


def _similarity(report: Report) -> list[list[str]]:
    if report.comparison is None or report.gain is None:
        return []
    names = (report.comparison.tuned, report.comparison.untuned, report.gain)
    duels = {task: Duel(*(report.result(name, task) for name in names)) for task in report.columns}
    titles = {AVERAGE: "average of the similarity tests"}
    return [[titles.get(task, task), *_cells(duel), "Spearman"] for task, duel in duels.items()]


def _cells(duel: Duel) -> list[str]:
    """Nothing is called higher or lower that the interval does not show to be so."""
    gap, low, high = duel.gap.value, duel.gap.low, duel.gap.high
    figures = [hundred(duel.ours.value), hundred(duel.rival.value)]
    if low is None or high is None:
        return [signed(gap), "–", "–", *figures]
    verdict = "higher" if low > 0 else "lower" if high < 0 else "tied" if low <= 0 <= high else "–"
    return [signed(gap), f"{signed(low)} to {signed(high)}", verdict, *figures]


def signed(value: float) -> str:
    """A difference x 100 with its sign."""
    return f"{100 * value:+.2f}" if value == value else hundred(value)
