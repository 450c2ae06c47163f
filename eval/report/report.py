"""The evidence as data: report.json, report.md, report.html and the table for the terminal read from one `Report`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from dec2vec.text_tables import plain_table
from eval.cache.cost import Cost
from eval.leakage.overlap import Overlap
from eval.report.headline_text import sentences
from eval.report.numbers import hundred, span
from eval.results.diagnostics import Confusion, Histogram, Mistakes, PrecisionRecall, Scatter
from eval.results.effort import Effort
from eval.results.headline import Headline
from eval.results.results import AVERAGE, Result, TaskTable
from eval.results.truncation import Truncation
from eval.selection.dev_curves import CurvePoint
from eval.systems.seeds import Seeds, find_seeds, mean_and_sd
from eval.systems.subject import Subject
from eval.tasks.sts import METRIC


@dataclass(frozen=True, eq=False)
class Report:
    """Everything the page shows. What is empty is left out of it."""

    provenance: Mapping[str, object]
    results: Sequence[Result]
    overlap: Sequence[Overlap]
    comparison: Headline | None
    """The headline of the average over the similarity tests."""
    reference: str | None
    """The untuned row that is the tuned encoder without its adapter."""
    dev: str
    """Empty in an evaluation without a similarity dev file."""
    tests: Sequence[str]
    histograms: Sequence[Histogram] = ()
    tasks: Sequence[TaskTable] = ()
    dev_curves: Sequence[CurvePoint] = ()
    """Dev scores of every untuned system that was tried on the similarity dev file."""
    scatter: Sequence[Scatter] = ()
    """Panels, such as before and after tuning."""
    confusions: Sequence[Confusion] = ()
    curves: Sequence[PrecisionRecall] = ()
    mistakes: Sequence[Mistakes] = ()
    """Of the topic tasks: texts that were taken for another class."""
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """By encoder and prompt, as `untuned: prompteol`."""
    efforts: Mapping[str, Effort] = field(default_factory=dict)
    """By system and baseline its parameters, dimension and speed."""
    notes: Sequence[str] = ()
    """What a reader of the headline must know: a choice at the edge of its grid, seeds that are none."""
    truncation: Sequence[Truncation] = ()
    """Of every task, encoder and prompt how many test texts `max_length` cut."""
    leading: str = ""
    """The kind of the task that chose the checkpoint: its tests come first. Empty leaves similarity first."""
    has_unknown_training: bool = False
    """Some tuned run's training text could not be read: nothing is known to be clean."""

    @cached_property
    def _index(self) -> dict[tuple[str, str, str, bool], Result]:
        return {(result.system, result.task, result.metric, result.clean): result for result in self.results}

    def result(self, system: str, task: str, metric: str = METRIC, *, clean: bool = False) -> Result:
        """One figure of a similarity test, by the name of the system or of the difference of two."""
        return self._index[system, task, metric, clean]

    def has(self, system: str, task: str, metric: str = METRIC, *, clean: bool = False) -> bool:
        """Whether there is such a figure."""
        return (system, task, metric, clean) in self._index

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """By name the systems and baselines of the similarity tests: tuned ones first, then by test average."""
        subjects = {row.system: row.subject for row in self.results if row.subject.kind in ("system", "baseline")}
        names = sorted(
            subjects, key=lambda name: (not subjects[name].is_tuned, -_sortable(self.result(name, AVERAGE).value))
        )
        return {name: subjects[name] for name in names}

    @property
    def systems(self) -> list[str]:
        """Names of `subjects`, in their order."""
        return list(self.subjects)

    @property
    def led(self) -> list[TaskTable]:
        """The tables of the kind that comes first."""
        return [table for table in self.tasks if self._leads(table)]

    @property
    def others(self) -> list[TaskTable]:
        """The other tables besides similarity."""
        return [table for table in self.tasks if not self._leads(table)]

    def _leads(self, table: TaskTable) -> bool:
        return self.leading != "" and table.kind.partition("/")[0] == self.leading

    @cached_property
    def tuned_names(self) -> frozenset[str]:
        """Of all rows those of tuned systems, and of what they gain."""
        rows = [*self.results, *(row for task in self.tasks for row in task.rows)]
        return frozenset(row.system for row in rows if row.subject.is_tuned)

    @cached_property
    def gain(self) -> str | None:
        """The name of the difference between the headline's tuned system and its untuned rival."""
        found = self.comparison
        if found is None or found.tuned is None or found.untuned is None:
            return None
        return f"{found.tuned.name} minus {found.untuned.name}"

    @cached_property
    def best_untuned(self) -> str | None:
        """The untuned row of the headline."""
        found = self.comparison
        return None if found is None or found.untuned is None else found.untuned.name

    @property
    def columns(self) -> list[str]:
        """Tasks of the table: the tests and their average, if there are several."""
        return [*self.tests, AVERAGE] if len(self.tests) > 1 else list(self.tests)

    @cached_property
    def highlights(self) -> list[str]:
        """For a terminal: tuned rows, the best untuned on dev and test, the encoder without its adapter, a baseline."""
        untuned = [name for name, subject in self.subjects.items() if subject.is_rival]
        best_first = sorted(untuned, key=lambda name: -_sortable(self.result(name, self.dev or AVERAGE).value))
        outside = [name for name, subject in self.subjects.items() if subject.kind == "baseline"]
        wanted = {*untuned[:1], *best_first[:3], self.reference, self.best_untuned, *outside[:1]}
        return [name for name, subject in self.subjects.items() if subject.is_tuned or name in wanted]


def _sortable(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def metric_label(metric: str, clean: bool) -> str:
    """Of a further task: `accuracy`, or `accuracy (clean)` on the items that training has not seen."""
    return f"{metric} (clean)" if clean else metric


def similarity_label(row: Result) -> str:
    """Of a similarity test: `spearman_all`, `spearman_all_clean`, `spearman_all_clean_difference` ..."""
    parts = [
        row.metric,
        *(["clean"] if row.clean else []),
        *(["difference"] if row.subject.kind == "difference" else []),
    ]
    return "_".join(parts)


def headline(report: Report) -> list[str]:
    """A few sentences about test figures; then the notes."""
    if report.comparison is None:
        return [*task_lines([*report.led, *report.others]), *report.notes]
    return [*task_lines(report.led), *similarity_lines(report), *report.notes]


def similarity_lines(report: Report) -> list[str]:
    """The headline of the average over the tests, then without every pair that training may have shown."""
    found = report.comparison
    return [] if found is None else [*sentences(found, where(report)), *_on_clean_pairs(report, found)]


def where(report: Report) -> str:
    """What the similarity headline is of."""
    return f"average of {len(report.tests)} test sets" if len(report.tests) > 1 else f"test set {report.tests[0]}"


def _on_clean_pairs(report: Report, found: Headline) -> list[str]:
    """The headline once more, without every pair that training may have shown."""
    if found.tuned is None or found.untuned is None or report.gain is None:
        return []
    ours, rival = (report.result(party.name, AVERAGE, clean=True) for party in (found.tuned, found.untuned))
    total = report.result(found.tuned.name, AVERAGE).n
    where = f"the training text or {report.dev}, on which settings are selected" if report.dev else "the training text"
    if ours.n == total:
        known = not report.has_unknown_training
        return (
            [f"Overlap: no test pair has a text that occurs in {where} or has a near-duplicate there."] if known else []
        )
    gap = report.result(report.gain, AVERAGE, clean=True)
    return [
        f"Overlap: {total - ours.n:,} of {total:,} test pairs have a text that occurs in {where} or has a "
        f"near-duplicate there. On the other {ours.n:,}: tuned {hundred(ours.value)}, untuned {hundred(rival.value)}, "
        f"difference {hundred(gap.value)} ({span(gap.low, gap.high, gap.no_interval)})."
    ]


def table_rows(report: Report, systems: Sequence[str]) -> list[list[str]]:
    """Name, average (or the one test), its interval, dev, each test; mean and spread of seeds below the tuned ones."""
    tuned = [name for name in systems if report.subjects[name].is_tuned]
    untuned = [name for name in systems if not report.subjects[name].is_tuned]
    seeds = find_seeds(report.subjects[name] for name in tuned)
    spreads = [row for found in seeds for row in _spread_rows(report, found)]
    return [*_system_rows(report, tuned), *spreads, *_system_rows(report, untuned)]


def _spread_rows(report: Report, seeds: Seeds) -> list[list[str]]:
    columns = [*_main_first(report), *_dev(report)]
    figures = [[report.result(member.name, task).value for task in columns] for member in seeds.members]
    mean, spread = ([hundred(value) for value in row] for row in mean_and_sd(np.array(figures)))
    count = len(_main_first(report))
    rows = ((seeds.mean.name, mean), (seeds.sd.name, spread))
    return [[name, row[0], "", *row[count:], *row[1:count]] for name, row in rows]


def _system_rows(report: Report, systems: Sequence[str]) -> list[list[str]]:
    rows = []
    for name in systems:
        average = report.result(name, AVERAGE)
        main, *figures = [hundred(report.result(name, task).value) for task in _main_first(report)]
        dev = [hundred(report.result(name, task).value) for task in _dev(report)]
        rows.append([name, main, span(average.low, average.high, average.no_interval), *dev, *figures])
    return rows


def table_header(report: Report) -> list[str]:
    """The average comes first: a table of many tests is wider than the screen."""
    main, *others = _main_first(report)
    return ["system", main, "95 % interval", *(f"{name} (dev)" for name in _dev(report)), *others]


def _dev(report: Report) -> list[str]:
    """The dev file's column, in an evaluation with one."""
    return [report.dev] if report.dev else []


def _main_first(report: Report) -> list[str]:
    return [*report.columns[-1:], *report.columns[:-1]]


def task_lines(tables: Sequence[TaskTable]) -> list[str]:
    """What was found on each of these tasks."""
    found = [(table.name, task_text(table)) for table in tables]
    return [f"{name}: {' '.join(lines)}" for name, lines in found if lines]


def task_text(table: TaskTable) -> list[str]:
    """The headline of a further task, and its note."""
    lines = [] if table.headline is None else sentences(table.headline)
    return [*lines, *([table.note] if table.note else [])]


def format_table(report: Report) -> str:
    """For the terminal: headline and the rows that matter; report.md has them all."""
    if not report.tests:
        return "\n".join(headline(report))
    lines = plain_table([table_header(report), *table_rows(report, report.highlights)])
    more = len(report.systems) - len(report.highlights)
    rest = [f"({more} more rows in report.md)"] if more else []
    above, below = headline(report), task_lines(report.others)
    tasks = ["", *below] if below else []
    return "\n".join([*above, "", lines[0], "-" * len(lines[0]), *lines[1:], *rest, *tasks])
