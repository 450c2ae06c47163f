"""Every task in one table: the tuned run against its untuned rival and against the best outside row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from eval.report.numbers import hundred, signed, signed_span
from eval.report.report import Report
from eval.results.headline import Headline, Party
from eval.results.results import AVERAGE, Result, TaskTable
from eval.tasks.sts import METRIC

HEADER = (
    "task",
    "figure x 100",
    "tuned",
    "untuned",
    "difference",
    "95 % interval",
    "tuned is",
    "above every untuned row",
    "best outside row",
    "difference",
    "95 % interval",
    "tuned is",
)
ABSENT = ("–", "–", "–", "–")
TITLES = {"spearman_all": "Spearman", AVERAGE: "average of the similarity tests"}


@dataclass(frozen=True)
class Duel:
    """Two systems of a task, and the row of their difference."""

    ours: Result
    rival: Result
    gap: Result


Rows = Mapping[str, Result]
"""A task's main figures by system."""


def overview_rows(report: Report) -> list[list[str]]:
    """A row a similarity test, their average, and a row a further task; none where nothing tuned was compared.

    Tasks of the kind that chose the checkpoint come first.
    """
    found = [_table_row(table) for table in report.led]
    for task in report.columns if report.comparison is not None else []:
        rows = {row.system: row for row in report.results if (row.task, row.metric, row.clean) == (task, METRIC, False)}
        found.append(_row(TITLES.get(task, task), report.comparison, rows))
    found += [_table_row(table) for table in report.others]
    return [row for row in found if row]


def _table_row(table: TaskTable) -> list[str]:
    return _row(table.name, table.headline, main_rows(table))


def main_rows(task: TaskTable) -> dict[str, Result]:
    """By system the row of the task's main figure."""
    return {row.system: row for row in task.rows if row.metric == task.metric and not row.clean}


def find_duel(rows: Rows, ours: Party | None, rival: Party | None) -> Duel | None:
    """The tuned run and one of its rivals; None where one of them is missing."""
    if ours is None or rival is None:
        return None
    return Duel(rows[ours.name], rows[rival.name], rows[f"{ours.name} minus {rival.name}"])


def _row(title: str, found: Headline | None, rows: Rows) -> list[str]:
    if found is None or found.tuned is None:
        return []
    duels = [find_duel(rows, found.tuned, rival) for rival in (found.untuned, found.outside)]
    if not any(duels):
        return []
    untuned, outside = (ABSENT if duel is None else _cells(duel, is_judged=found.is_judged) for duel in duels)
    above = ("yes" if _is_above(found, rows) else "no") if found.is_judged else "–"
    start = [title, TITLES.get(found.metric, found.metric), hundred(rows[found.tuned.name].value)]
    return [*start, *untuned, above, *outside]


def _is_above(found: Headline, rows: Rows) -> bool:
    """Whether the tuned run is above each untuned row on this very test."""
    rivals = [row.value for row in rows.values() if row.subject.is_rival]
    return found.tuned is not None and all(rows[found.tuned.name].value > value for value in rivals)


def _cells(duel: Duel, *, is_judged: bool) -> list[str]:
    """Nothing is called higher or lower that the interval does not show to be so, or where higher is not better."""
    gap, low, high = duel.gap.value, duel.gap.low, duel.gap.high
    if low is None or high is None:
        return [hundred(duel.rival.value), signed(gap), signed_span(low, high, duel.gap.no_interval), "–"]
    if not is_judged:
        return [hundred(duel.rival.value), signed(gap), signed_span(low, high), "–"]
    verdict = "higher" if low > 0 else "lower" if high < 0 else "tied" if low <= 0 <= high else "–"
    return [hundred(duel.rival.value), signed(gap), signed_span(low, high), verdict]
