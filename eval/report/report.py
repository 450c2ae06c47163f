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
from eval.results.clean import CLEAN, CLEAN_DIFFERENCE
from eval.results.diagnostics import Confusion, Histogram, Mistakes, PrecisionRecall, Scatter
from eval.results.results import AVERAGE, Comparison, Result
from eval.results.task_results import TaskTable
from eval.selection.dev_curves import SweepPoint
from eval.systems.seeds import Seeds, mean_and_sd, seeds_of
from eval.systems.system import TRANSDUCTIVE


@dataclass(frozen=True, eq=False)
class Report:
    """Everything the page shows. What is empty is left out of it."""

    provenance: Mapping[str, object]
    results: Sequence[Result]
    overlap: Sequence[Overlap]
    comparison: Comparison | None
    reference: str | None
    """The untuned row that is the tuned encoder without its adapter."""
    dev: str
    """Empty in an evaluation without similarity, as `tests` and `results` are."""
    tests: Sequence[str]
    histograms: Sequence[Histogram] = ()
    tasks: Sequence[TaskTable] = ()
    sweep: Sequence[SweepPoint] = ()
    scatter: Sequence[Scatter] = ()
    """Panels, such as before and after tuning."""
    confusions: Sequence[Confusion] = ()
    curves: Sequence[PrecisionRecall] = ()
    mistakes: Sequence[Mistakes] = ()
    """Of the topic tasks."""
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """By encoder and prompt, as `untuned: prompteol`."""
    notes: Sequence[str] = ()
    """What a reader of the headline must know: a choice at the edge of its grid, seeds that are none."""
    has_unknown_training: bool = False
    """Some tuned run's training text could not be read: nothing is known to be clean."""

    @cached_property
    def _index(self) -> dict[tuple[str, str, str], Result]:
        return {(result.system, result.task, result.metric): result for result in self.results}

    def result(self, system: str, task: str, metric: str = "spearman_all") -> Result:
        """One figure."""
        return self._index[system, task, metric]

    @cached_property
    def systems(self) -> list[str]:
        """Names, tuned ones first, then by test average, best first."""
        names = dict.fromkeys(result.system for result in self.results if result.metric == "spearman_all")
        return sorted(names, key=lambda name: (not is_tuned(name), -_sortable(self.result(name, AVERAGE).value)))

    def has(self, system: str, task: str, metric: str) -> bool:
        """Whether there is such a figure."""
        return (system, task, metric) in self._index

    @cached_property
    def best_untuned(self) -> str | None:
        """The untuned row with the highest dev score: the tuned one's rival."""
        if self.comparison is not None:
            return self.comparison.untuned
        untuned = [name for name in self.systems if is_rival(name)]
        return max(untuned, key=lambda name: _sortable(self.result(name, self.dev).value), default=None)

    @property
    def columns(self) -> list[str]:
        """Tasks of the table: the tests and their average, if there are several."""
        return [*self.tests, AVERAGE] if len(self.tests) > 1 else list(self.tests)

    @cached_property
    def highlights(self) -> list[str]:
        """For a terminal: tuned rows, the best untuned on dev and test, the encoder without its adapter, a baseline."""
        untuned = [name for name in self.systems if is_rival(name)]
        on_dev = sorted(untuned, key=lambda name: -_sortable(self.result(name, self.dev).value))
        outside = [name for name in self.systems if is_baseline(name)]
        wanted = {*untuned[:1], *on_dev[:3], self.reference, self.best_untuned, *outside[:1]}
        return [name for name in self.systems if is_tuned(name) or name in wanted]


def is_tuned(system: str) -> bool:
    """By the name, which is all that report.json has."""
    return system.startswith("tuned/")


def is_transductive(system: str) -> bool:
    """Rows whose post-processing saw the test sentences: shown, never called the best."""
    return system.endswith(TRANSDUCTIVE)


def is_baseline(system: str) -> bool:
    """What needs no decoder: shown beside it, and no part of the question whether tuning was worth it."""
    return system.startswith("baseline/")


def is_rival(system: str) -> bool:
    """An untuned reading that the tuned encoder is compared with."""
    return not (is_tuned(system) or is_transductive(system) or is_baseline(system))


def _sortable(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def hundred(value: float) -> str:
    """Spearman x 100, as published; a dash where there is none."""
    return f"{100 * value:.2f}" if math.isfinite(value) else "–"


def span(low: float, high: float) -> str:
    return f"{hundred(low)} to {hundred(high)}"


def headline(report: Report) -> list[str]:
    """Two or three sentences, all about test figures of systems chosen on dev; then the notes."""
    return [*_verdict(report), *report.notes]


def _verdict(report: Report) -> list[str]:
    if not report.tests:
        return task_lines(report)
    found = report.comparison
    where = f"average of {len(report.tests)} test sets" if len(report.tests) > 1 else f"test set {report.tests[0]}"
    if found is None:
        honest = [name for name in report.systems if is_tuned(name) or is_rival(name)]
        top = max(honest, key=lambda name: _sortable(report.result(name, report.dev).value))
        score = report.result(top, AVERAGE)
        return [
            f"Best on {report.dev}: {top}, with {hundred(score.value)}"
            f" ({span(score.ci_low, score.ci_high)}) on the {where}."
        ]
    verdict = "yes" if found.is_tuned_above_every_untuned else "no"
    return [
        f"Tuned {hundred(found.tuned_value)} against {hundred(found.untuned_value)} untuned"
        f" (Spearman x 100, {where}): {found.tuned} against {found.untuned}, both chosen on {report.dev}.",
        _difference(found),
        f"Tuned above every untuned row: {verdict}; the highest untuned row on the tests is"
        f" {found.best_untuned_on_test} with {hundred(found.best_untuned_on_test_value)}.",
        *_on_clean_pairs(report, found),
    ]


def _difference(found: Comparison) -> str:
    gap = found.difference
    if not math.isfinite(gap.value):
        return "Difference: none, as a figure is missing."
    tie = " A tie: the interval contains 0." if found.is_tie else ""
    return (
        f"Difference {100 * gap.value:+.2f}, 95 % interval {100 * gap.low:+.2f} to {100 * gap.high:+.2f},"
        f" p = {found.p_value:.3f} (paired bootstrap over pairs, two-sided, {found.resamples:,} resamples).{tie}"
    )


def _on_clean_pairs(report: Report, found: Comparison) -> list[str]:
    """The headline once more, without every pair that training may have shown."""
    if not report.has(found.tuned, AVERAGE, CLEAN):
        return []
    ours, rival = (report.result(name, AVERAGE, CLEAN) for name in (found.tuned, found.untuned))
    total = report.result(found.tuned, AVERAGE).n
    where = f"the training-side text or {report.dev}, on which choices are made"
    if ours.n == total:
        known = not report.has_unknown_training
        return [f"Overlap: no test pair has a text that is in, or close to, {where}."] if known else []
    gap = report.result(f"{found.tuned} minus {found.untuned}", AVERAGE, CLEAN_DIFFERENCE)
    return [
        f"Overlap: {total - ours.n:,} of {total:,} test pairs have a text that is in, or close to, {where}."
        f" On the {ours.n:,} others: tuned {hundred(ours.value)} against {hundred(rival.value)},"
        f" difference {hundred(gap.value)} ({span(gap.ci_low, gap.ci_high)})."
    ]


def table_rows(report: Report, systems: Sequence[str]) -> list[list[str]]:
    """Name, average (or the one test), its interval, dev, each test; mean and spread of seeds below the tuned ones."""
    tuned, others = [name for name in systems if is_tuned(name)], [name for name in systems if not is_tuned(name)]
    spreads = [row for seeds in seeds_of(tuned) for row in _spread_rows(report, seeds)]
    return [*_system_rows(report, tuned), *spreads, *_system_rows(report, others)]


def _spread_rows(report: Report, seeds: Seeds) -> list[list[str]]:
    columns = [*_main_first(report), report.dev]
    figures = [[report.result(name, task).value for task in columns] for name in seeds.systems]
    mean, spread = ([hundred(value) for value in row] for row in mean_and_sd(np.array(figures)))
    return [[name, row[0], "", row[-1], *row[1:-1]] for name, row in ((seeds.mean_name, mean), (seeds.sd_name, spread))]


def _system_rows(report: Report, systems: Sequence[str]) -> list[list[str]]:
    rows = []
    for name in systems:
        average = report.result(name, AVERAGE)
        main, *figures = [hundred(report.result(name, task).value) for task in _main_first(report)]
        dev = hundred(report.result(name, report.dev).value)
        rows.append([name, main, span(average.ci_low, average.ci_high), dev, *figures])
    return rows


def table_header(report: Report) -> list[str]:
    """The average stands first: a table of many tests is wider than the screen."""
    main, *others = _main_first(report)
    return ["system", main, "95 % interval", report.dev, *others]


def _main_first(report: Report) -> list[str]:
    return [*report.columns[-1:], *report.columns[:-1]]


def task_lines(report: Report) -> list[str]:
    """What was found on each further task."""
    return [f"{table.name}: {table.note}" for table in report.tasks if table.note]


def format_table(report: Report) -> str:
    """For the terminal: headline and the rows that matter; report.md has them all."""
    if not report.tests:
        return "\n".join(headline(report))
    lines = plain_table([table_header(report), *table_rows(report, report.highlights)])
    more = len(report.systems) - len(report.highlights)
    rest = [f"({more} more rows in report.md)"] if more else []
    tasks = ["", *task_lines(report)] if report.tasks else []
    return "\n".join([*headline(report), "", lines[0], "-" * len(lines[0]), *lines[1:], *rest, *tasks])
