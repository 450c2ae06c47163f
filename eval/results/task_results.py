"""The table and the verdict of a task besides similarity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.statistics import interval, p_value
from eval.results.results import Result, TaskTable
from eval.selection.choose import Choice, best
from eval.selection.judge import Measured
from eval.systems.seeds import find_seeds, mean_and_sd
from eval.systems.subject import Subject
from eval.tasks.task import E, Figure, Task


def task_table(task: Task[E], rows: Sequence[Measured]) -> TaskTable:
    """Every figure, mean and spread of seeds, and the difference of the tuned and the untuned leader."""
    results = [result for row in _ordered(rows) for result in _results(task, row)]
    results += _spreads(task.name, rows)
    ours, rival = leader(rows, is_tuned=True), leader(rows, is_tuned=False)
    if ours is None or rival is None:
        return TaskTable(task.name, task.metric, results, _note(rows))
    note = _verdict(ours, rival) + _clean_verdict(ours, rival) + _note(rows)
    return TaskTable(task.name, task.metric, [*results, *_differences(task.name, ours, rival)], note)


def leader(rows: Sequence[Measured], *, is_tuned: bool) -> Measured | None:
    """The system that dev data put first. Nothing is chosen for a baseline, which never leads."""
    by_choice: dict[Choice, Measured] = {
        row.choice: row for row in rows if row.choice is not None and row.is_tuned == is_tuned
    }
    return by_choice[best(list(by_choice))] if by_choice else None


def _results(task: Task[E], row: Measured) -> list[Result]:
    chosen_on = None if row.choice is None else row.choice.chosen_on
    results = []
    for figure in row.figures:
        is_main = figure.metric == task.metric and not figure.clean
        dev, chosen = (row.dev_score, row.chosen) if is_main else (None, "")
        results.append(Result.from_figure(row.subject, task.name, figure, chosen_on=chosen_on, dev=dev, chosen=chosen))
    return results


def _differences(task: str, ours: Measured, rival: Measured) -> list[Result]:
    theirs = {(figure.metric, figure.clean): figure for figure in rival.figures}
    pairs = [(figure, theirs.get((figure.metric, figure.clean))) for figure in ours.figures]
    subject = Subject.from_difference(ours.subject, rival.subject)
    return [Result.from_figure(subject, task, one.minus(other)) for one, other in pairs if other is not None]


def _verdict(ours: Measured, rival: Measured) -> str:
    a, b = ours.figures[0], rival.figures[0]
    gap = interval(a.value - b.value, a.resampled - b.resampled)
    if not np.isfinite(gap.value):
        return (
            f"{a.metric}: the difference of {ours.name} and {rival.name} is not available, because a score is missing. "
        )
    p = p_value(a.resampled - b.resampled)
    tie = "" if gap.low > 0 or gap.high < 0 else " A tie: the interval contains 0."
    one, other = f"{100 * a.value:.2f} tuned ({ours.name})", f"{100 * b.value:.2f} untuned ({rival.name})"
    span = f"95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
    return (
        f"{a.metric} x 100: {one} compared with {other}; difference {100 * gap.value:+.2f}, {span}, p = {p:.3f}.{tie} "
    )


def _clean_verdict(ours: Measured, rival: Measured) -> str:
    """The same without the items that training may have shown; nothing where it has shown none."""
    pair = _clean(ours), _clean(rival)
    if pair[0] is None or pair[1] is None:
        return ""
    a, b = pair[0], pair[1]
    left = f"Overlap: {ours.figures[0].n - a.n:,} of {ours.figures[0].n:,} items have a text that is in, or close to,"
    left += " the training-side text."
    gap = interval(a.value - b.value, a.resampled - b.resampled)
    if not np.isfinite(gap.value):
        return f"{left} The other {a.n:,} are too few for a score. "
    span = f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
    figures = f"{100 * a.value:.2f} compared with {100 * b.value:.2f}, difference {100 * gap.value:+.2f} ({span})"
    return f"{left} On the other {a.n:,}: {figures}. "


def _clean(row: Measured) -> Figure | None:
    return next((figure for figure in row.figures if figure.clean), None)


def _note(rows: Sequence[Measured]) -> str:
    dev_names = list(dict.fromkeys(row.choice.chosen_on for row in rows if row.choice and row.choice.chosen_on))
    leaders = [row for row in (leader(rows, is_tuned=True), leader(rows, is_tuned=False)) if row is not None]
    edges = [f"Note: {row.name}: {remark}." for row in leaders for remark in row.remarks]
    return " ".join([f"Settings were selected on {', '.join(dev_names)}.", *edges] if dev_names else edges)


def _spreads(task: str, rows: Sequence[Measured]) -> list[Result]:
    """Mean and standard deviation over the seeds of a recipe, which are no intervals over texts."""
    by_name = {row.name: row for row in rows}
    results = []
    for seeds in find_seeds(row.subject for row in rows):
        members = [by_name[member.name] for member in seeds.members]
        values = mean_and_sd(np.array([[figure.value for figure in row.figures] for row in members]))
        for subject, spread in zip((seeds.mean, seeds.sd), values, strict=True):
            for figure, value in zip(members[0].figures, spread, strict=True):
                results.append(Result(subject, task, figure.metric, float(value), None, None, figure.n, figure.clean))
    return results


def _ordered(rows: Sequence[Measured]) -> list[Measured]:
    """Tuned ones first, then by the main figure."""
    return sorted(rows, key=lambda row: (not row.is_tuned, -np.nan_to_num(row.figures[0].value, nan=-np.inf)))
