"""The table and the headline of a task besides similarity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.results.headline import Entrant, make_headline, top, tuned_side, untuned_side
from eval.results.results import Result, TaskTable
from eval.selection.judge import Measured
from eval.systems.seeds import find_seeds, mean_and_sd
from eval.systems.subject import Subject
from eval.systems.system import CORPUS
from eval.tasks.task import E, Figure, Task


def task_table(task: Task[E], rows: Sequence[Measured]) -> TaskTable:
    """Every figure, mean and spread of seeds, and what the tuned run differs by from its rivals."""
    results = [result for row in _ordered(rows) for result in _results(task, row)]
    results += _spreads(task.name, rows)
    has_dev = task.dev is not None
    headline = make_headline(entrants(rows), has_dev=has_dev, is_judged=task.is_judged)
    ours, rival = leader(rows, is_tuned=True, has_dev=has_dev), leader(rows, is_tuned=False, has_dev=has_dev)
    outside = _highest_outside(rows) if task.is_judged else None
    if ours is not None:
        for other in (rival, outside):
            results += [] if other is None else _differences(task.name, ours, other)
    fitted = _fit_notes([row.subject for row in rows])
    parts = [_selected(rows), _clean_verdict(ours, rival), _edges([ours, rival]), *fitted]
    return TaskTable(task.name, task.metric, results, " ".join(part for part in parts if part), headline, task.kind)


def entrants(rows: Sequence[Measured]) -> list[Entrant]:
    """The rows with their main figures."""
    return [Entrant(row.subject, row.figures[0], row.choice) for row in rows]


def leader(rows: Sequence[Measured], *, is_tuned: bool, has_dev: bool) -> Measured | None:
    """The tuned system of the headline, or its untuned rival. An outside row never leads."""
    found = (tuned_side if is_tuned else untuned_side)(entrants(rows), has_dev=has_dev)
    return None if found is None else next(row for row in rows if row.subject is found[0].subject)


def _highest_outside(rows: Sequence[Measured]) -> Measured | None:
    outside = [row for row in rows if row.subject.kind == "baseline"]
    return next(row for row in outside if row.subject is top(entrants(outside)).subject) if outside else None


def _results(task: Task[E], row: Measured) -> list[Result]:
    choice, results = row.choice, []
    for figure in row.figures:
        is_main = figure.metric == task.metric and not figure.clean
        dev, chosen = (row.dev_score, row.chosen) if is_main else (None, "")
        is_on_dev = choice is not None and dev is not None
        results.append(
            Result.from_figure(
                row.subject,
                task.name,
                figure,
                chosen_on=None if choice is None else choice.chosen_on,
                dev=dev,
                chosen=chosen,
                dev_data=choice.dev_data if choice is not None and is_on_dev else None,
                dev_metric=choice.dev_metric if choice is not None and is_on_dev else None,
                selection=None if choice is None else choice.selection,
            )
        )
    return results


def _differences(task: str, ours: Measured, rival: Measured) -> list[Result]:
    theirs = {(figure.metric, figure.clean): figure for figure in rival.figures}
    pairs = [(figure, theirs.get((figure.metric, figure.clean))) for figure in ours.figures]
    subject = Subject.from_difference(ours.subject, rival.subject)
    return [Result.from_figure(subject, task, one.minus(other)) for one, other in pairs if other is not None]


def _clean_verdict(ours: Measured | None, rival: Measured | None) -> str:
    """The comparison without the items that training may have shown; nothing where it has shown none."""
    pair = _clean(ours), _clean(rival)
    if ours is None or pair[0] is None or pair[1] is None:
        return ""
    a, b = pair[0], pair[1]
    left = f"Overlap: {ours.figures[0].n - a.n:,} of {ours.figures[0].n:,} items have a text that is in, or close to,"
    left += " the training-side text."
    gap = a.minus(b)
    if not np.isfinite(gap.value):
        return f"{left} The other {a.n:,} are too few for a score."
    bounds = gap.interval
    span = f"{100 * bounds.low:+.2f} to {100 * bounds.high:+.2f}" if bounds else f"no interval: {gap.no_interval}"
    figures = f"{100 * a.value:.2f} compared with {100 * b.value:.2f}, difference {100 * gap.value:+.2f} ({span})"
    return f"{left} On the other {a.n:,}: {figures}."


def _clean(row: Measured | None) -> Figure | None:
    return None if row is None else next((figure for figure in row.figures if figure.clean), None)


def _fit_notes(subjects: Sequence[Subject]) -> list[str]:
    """One sentence for each text that baselines were fitted on, and one for the rows that are marked as corpus."""
    by_text: dict[str, list[str]] = {}
    for subject in subjects:
        if subject.kind == "baseline" and subject.fitted_on is not None:
            by_text.setdefault(subject.fitted_on, []).append(subject.name)
    notes = [f"Fitted on {text}: {', '.join(names)}." for text, names in by_text.items()]
    marked = next((subject.fitted_on for subject in subjects if subject.kind == "system" and subject.fitted_on), None)
    return notes if marked is None else [*notes, f"Rows marked {CORPUS} were fitted on the {marked}, not on `fit`."]


def _selected(rows: Sequence[Measured]) -> str:
    """On which data the readings of the rows were selected, or that they were not."""
    choices = [row.choice for row in rows if row.choice is not None]
    if any(choice.selection == "none" for choice in choices):
        return "There are no dev data: each reading is a row of its own, and none of them was selected."
    found = {choice.chosen_on: choice for choice in choices if choice.chosen_on}
    where = [f"{name}{', another task' if found[name].selection == 'other dev' else ''}" for name in found]
    return f"Settings were selected on {'; '.join(where)}." if where else ""


def _edges(leaders: Sequence[Measured | None]) -> str:
    """Choices of the headline's systems at the edge of what was tried."""
    return " ".join(f"Note: {row.name}: {remark}." for row in leaders if row is not None for remark in row.remarks)


def _spreads(task: str, rows: Sequence[Measured]) -> list[Result]:
    """Mean and standard deviation over the seeds of a recipe. The mean's interval is over other seeds and texts."""
    by_name = {row.name: row for row in rows}
    results = []
    for seeds in find_seeds(row.subject for row in rows):
        members = [by_name[member.name] for member in seeds.members]
        _, deviations = mean_and_sd(np.array([[figure.value for figure in row.figures] for row in members]))
        means = [Figure.over_seeds(column) for column in zip(*(row.figures for row in members), strict=True)]
        results += [Result.from_figure(seeds.mean, task, figure) for figure in means]
        for figure, value in zip(members[0].figures, deviations, strict=True):
            results.append(Result(seeds.sd, task, figure.metric, float(value), None, None, figure.n, figure.clean))
    return results


def _ordered(rows: Sequence[Measured]) -> list[Measured]:
    """Tuned ones first, then by the main figure."""
    return sorted(rows, key=lambda row: (not row.is_tuned, -np.nan_to_num(row.figures[0].value, nan=-np.inf)))
