"""What was found on the tasks beside similarity, made ready for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from eval.metrics.statistics import interval, p_value
from eval.results.diagnostics import Confusion, Mistakes, PrecisionRecall, Scatter
from eval.selection.judge import CLEAN, Measured
from eval.systems.seeds import mean_and_sd, seeds_of
from eval.tasks.pairs import PairEvidence
from eval.tasks.task import Figure, Task
from eval.tasks.topic_evidence import TopicEvidence

SHOWN_CLASSES = 30
"""A confusion matrix of more classes can't be read."""


@dataclass(frozen=True, eq=False)
class Findings:
    """By task, in the order in which systems were judged."""

    tasks: list[Task] = field(default_factory=list)
    rows: dict[str, list[Measured]] = field(default_factory=dict)

    def add(self, task: Task, found: Sequence[Measured]) -> None:
        """More systems of one task; of their vectors and decisions only the leading ones' are kept."""
        if task.name not in self.rows:
            self.tasks.append(task)
            self.rows[task.name] = []
        rows = self.rows[task.name]
        rows.extend(found)
        kept = {id(row) for row in (leader(rows, is_tuned=True), leader(rows, is_tuned=False)) if row is not None}
        rows[:] = [row if id(row) in kept else row.without_evidence() for row in rows]

    def tables(self) -> list[TaskTable]:
        """Every figure of every system, and the difference of the tuned and the best untuned one."""
        return [self._table(task) for task in self.tasks]

    def scatter(self) -> list[Scatter]:
        """Before and after tuning, of the tasks that have classes."""
        return [
            Scatter.of(f"{task.name}: {row.name}", row.evidence.vectors, row.evidence.labels)
            for task, row in self._leaders()
            if row.evidence is not None
            and isinstance(row.evidence.decisions, TopicEvidence)
            and row.evidence.decisions.is_finite
        ]

    def confusions(self) -> list[Confusion]:
        """Of the tasks with few enough classes."""
        found = []
        for task, row in self._leaders():
            decided = None if row.evidence is None else row.evidence.decisions
            if isinstance(decided, TopicEvidence) and decided.is_finite and len(decided.classes) <= SHOWN_CLASSES:
                found.append(Confusion(f"{task.name}: {row.name}", decided.classes, decided.confusion))
        return found

    def mistakes(self) -> list[Mistakes]:
        """The surest ones of each topic task's headline system: the tuned one that leads, or else the untuned one."""
        found: dict[str, Mistakes] = {}
        for task, row in self._leaders():  # the tuned one comes last
            decided = None if row.evidence is None else row.evidence.decisions
            if isinstance(decided, TopicEvidence) and decided.is_finite:
                found[task.name] = Mistakes.of(task.name, row.name, decided)
        return list(found.values())

    def curves(self) -> list[PrecisionRecall]:
        """Of pair matching."""
        found = []
        for task, row in self._leaders():
            decided = None if row.evidence is None else row.evidence.decisions
            if isinstance(decided, PairEvidence) and decided.threshold is not None and decided.is_finite:
                title = f"{task.name}: {row.name}"
                found.append(PrecisionRecall.of(title, decided.cosines, decided.labels, decided.threshold))
        return found

    def _leaders(self) -> list[tuple[Task, Measured]]:
        pairs = [
            (task, leader(self.rows[task.name], is_tuned=is_tuned)) for task in self.tasks for is_tuned in (False, True)
        ]
        return [(task, row) for task, row in pairs if row is not None]

    def _table(self, task: Task) -> TaskTable:
        rows = self.rows[task.name]
        made = [
            _row(row.name, figure, row.dev_score, row.chosen)
            if figure.metric == task.metric
            else _row(row.name, figure)
            for row in _ordered(rows)
            for figure in row.figures
        ]
        made += _spreads(rows)
        ours, rival = leader(rows, is_tuned=True), leader(rows, is_tuned=False)
        if ours is None or rival is None:
            return TaskTable(task.name, task.metric, made, _note(rows))
        note = _verdict(ours, rival) + _clean_verdict(ours, rival) + _note(rows)
        return TaskTable(task.name, task.metric, [*made, *_differences(ours, rival)], note)


def leader(rows: Sequence[Measured], *, is_tuned: bool) -> Measured | None:
    """The system that dev data put first. Outside baselines have no dev score and never lead."""
    found = [row for row in rows if row.is_tuned == is_tuned and not row.is_baseline]
    return max(found, key=lambda row: -np.inf if row.dev_score is None else row.dev_score, default=None)


def _differences(ours: Measured, rival: Measured) -> list[TaskRow]:
    theirs = {figure.metric: figure for figure in rival.figures}
    pairs = [(figure, theirs[figure.metric]) for figure in ours.figures if figure.metric in theirs]
    gaps = [Figure(a.metric, a.value - b.value, a.resampled - b.resampled, a.n) for a, b in pairs]
    return [_row(f"{ours.name} minus {rival.name}", gap) for gap in gaps]


def _verdict(ours: Measured, rival: Measured) -> str:
    a, b = ours.figures[0], rival.figures[0]
    gap = interval(a.value - b.value, a.resampled - b.resampled)
    if not np.isfinite(gap.value):
        return f"{a.metric}: no difference of {ours.name} and {rival.name}, as a figure is missing. "
    p = p_value(a.resampled - b.resampled)
    tie = "" if gap.low > 0 or gap.high < 0 else " A tie: the interval contains 0."
    one, other = f"{100 * a.value:.2f} tuned ({ours.name})", f"{100 * b.value:.2f} untuned ({rival.name})"
    span = f"95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
    return f"{a.metric} x 100: {one} against {other}; difference {100 * gap.value:+.2f}, {span}, p = {p:.3f}.{tie} "


def _clean_verdict(ours: Measured, rival: Measured) -> str:
    """The same without the items that training may have shown; nothing where it has shown none."""
    clean = [figure for row in (ours, rival) for figure in row.figures if figure.metric.endswith(CLEAN)]
    if len(clean) < len((ours, rival)):
        return ""
    a, b = clean
    left = f"Overlap: {ours.figures[0].n - a.n:,} of {ours.figures[0].n:,} items have a text that is in, or close to,"
    left += " the training-side text."
    gap = interval(a.value - b.value, a.resampled - b.resampled)
    if not np.isfinite(gap.value):
        return f"{left} The {a.n:,} others allow no figure. "
    span = f"{100 * gap.low:+.2f} to {100 * gap.high:+.2f}"
    figures = f"{100 * a.value:.2f} against {100 * b.value:.2f}, difference {100 * gap.value:+.2f} ({span})"
    return f"{left} On the {a.n:,} others: {figures}. "


def _note(rows: Sequence[Measured]) -> str:
    places = list(dict.fromkeys(row.chosen_on for row in rows if row.chosen_on))
    leaders = [row for row in (leader(rows, is_tuned=True), leader(rows, is_tuned=False)) if row is not None]
    edges = [f"Note: {row.name}: {remark}." for row in leaders for remark in row.remarks]
    return " ".join([f"Readings were chosen on {', '.join(places)}.", *edges] if places else edges)


def _spreads(rows: Sequence[Measured]) -> list[TaskRow]:
    """Mean and standard deviation over the seeds of a recipe, which are no intervals over texts."""
    by_name = {row.name: row for row in rows}
    found = []
    for seeds in seeds_of(by_name):
        members = [by_name[name] for name in seeds.systems]
        figures = np.array([[figure.value for figure in row.figures] for row in members])
        for name, values in zip((seeds.mean_name, seeds.sd_name), mean_and_sd(figures), strict=True):
            for figure, value in zip(members[0].figures, values, strict=True):
                found.append(TaskRow(name, figure.metric, float(value), None, None, figure.n))
    return found


def _ordered(rows: Sequence[Measured]) -> list[Measured]:
    """Tuned ones first, then by the main figure."""
    return sorted(rows, key=lambda row: (not row.is_tuned, -np.nan_to_num(row.figures[0].value, nan=-np.inf)))


def _row(name: str, figure: Figure, dev: float | None = None, chosen: str = "") -> TaskRow:
    found = interval(figure.value, figure.resampled)
    return TaskRow(name, figure.metric, found.value, found.low, found.high, figure.n, dev, chosen)


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
