"""The similarity tests: every system's figures, their averages, and the paired comparison of tuned and best untuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from eval.metrics.statistics import Interval, interval, p_value
from eval.results.findings import Findings
from eval.results.results import AVERAGE, Result
from eval.selection.choose import Choice, best
from eval.selection.judge import Measured
from eval.systems.subject import Subject
from eval.tasks.sts import SimilarityEvidence, StsTask
from eval.tasks.task import Figure, clean_figure


@dataclass(frozen=True)
class Comparison:
    """Both systems were chosen on dev; figures are test averages."""

    tuned: str
    untuned: str
    tuned_value: float
    untuned_value: float
    difference: Interval
    p_value: float
    """Two-sided, from the paired resamples behind the interval."""
    resamples: int
    best_untuned_on_test: str
    best_untuned_on_test_value: float

    @property
    def is_tie(self) -> bool:
        """The interval of the difference holds 0 (or there is none): neither is shown to be better."""
        return not (self.difference.low > 0 or self.difference.high < 0)

    @property
    def is_tuned_above_every_untuned(self) -> bool:
        """Even above the untuned row that happens to be best on the tests."""
        return self.tuned_value > self.best_untuned_on_test_value


ByTask = Mapping[str, Sequence[Figure]]
"""Figures by task, the average over the tests included."""


@dataclass(frozen=True, eq=False)
class SystemFigures:
    """What one system reached on the dev file, on every test, and on their average."""

    measured: Mapping[str, Measured]
    figures: ByTask

    @classmethod
    def from_measured(cls, measured: Mapping[str, Measured], tests: Sequence[StsTask]) -> SystemFigures:
        figures = {task: row.figures for task, row in measured.items()}
        return cls(measured, with_average(figures, tests))

    @property
    def subject(self) -> Subject:
        return next(iter(self.measured.values())).subject

    @property
    def choice(self) -> Choice | None:
        return next(iter(self.measured.values())).choice

    @property
    def average(self) -> Figure:
        """The main figure over all tests."""
        return self.figures[AVERAGE][0]

    def results(self, figures: ByTask) -> list[Result]:
        """Rows of this system."""
        chosen_on = None if self.choice is None else self.choice.chosen_on
        return [
            Result.from_figure(self.subject, task, figure, chosen_on=chosen_on)
            for task, of_task in figures.items()
            for figure in of_task
        ]


def with_average(figures: ByTask, tests: Sequence[StsTask]) -> ByTask:
    """Also the mean of each figure over the tests."""
    columns = zip(*(figures[task.name] for task in tests), strict=True)
    return {**figures, AVERAGE: [Figure.mean(column) for column in columns]}


def similarity_results(
    findings: Findings, clean: Mapping[str, Bool[np.ndarray, " _"]], *, resamples: int, seed: int
) -> tuple[list[Result], Comparison | None]:
    """Every system on every task and on the average; then what is shown of the tuned systems and their rivals.

    `clean` says of each test's pairs which ones training has not seen.
    """
    systems, tests = _systems(findings), findings.tests
    chosen = [item for item in systems if item.choice is not None]
    results = _table([(item, item.figures) for item in chosen])
    comparison = _compare(chosen)
    if comparison is not None:
        by_name = {item.subject.name: item for item in chosen}
        pair = by_name[comparison.tuned], by_name[comparison.untuned]
        named = {comparison.untuned, comparison.best_untuned_on_test}
        shown = [item for item in chosen if item.subject.run is not None or item.subject.name in named]
        on_clean = {item.subject.name: _clean(item, tests, clean, resamples, seed) for item in shown}
        results += _difference(pair, [item.figures for item in pair], findings)
        results += _table([(item, on_clean[item.subject.name]) for item in shown])
        results += _difference(pair, [on_clean[item.subject.name] for item in pair], findings)
        results += [row for item in shown for row in item.results(_similarities(item, tests, resamples, seed))]
    return [*results, *_table([(item, item.figures) for item in systems if item.choice is None])], comparison


def _systems(findings: Findings) -> list[SystemFigures]:
    """In the order in which they were judged."""
    names = [task.name for task in findings.similarity]
    columns = [findings.rows.get(name, []) for name in names]
    return [
        SystemFigures.from_measured(dict(zip(names, rows, strict=True)), findings.tests)
        for rows in zip(*columns, strict=True)
    ]


def _table(systems: Sequence[tuple[SystemFigures, ByTask]]) -> list[Result]:
    """Task by task, as a reader compares systems."""
    tasks = list(systems[0][1]) if systems else []
    return [row for task in tasks for item, figures in systems for row in item.results({task: figures[task]})]


def _compare(systems: Sequence[SystemFigures]) -> Comparison | None:
    by_choice = {item.choice: item for item in systems if item.choice is not None}
    tuned = [choice for choice, item in by_choice.items() if item.subject.run is not None]
    untuned = [choice for choice, item in by_choice.items() if item.subject.is_rival]
    if not tuned or not untuned:
        return None
    ours, rival = by_choice[best(tuned)], by_choice[best(untuned)]
    rivals = [by_choice[choice] for choice in untuned]
    luckiest = max(rivals, key=lambda item: np.nan_to_num(item.average.value, nan=-np.inf))
    difference = ours.average.minus(rival.average)
    return Comparison(
        tuned=ours.subject.name,
        untuned=rival.subject.name,
        tuned_value=ours.average.value,
        untuned_value=rival.average.value,
        difference=interval(difference.value, difference.resampled),
        p_value=p_value(difference.resampled),
        resamples=len(difference.resampled),
        best_untuned_on_test=luckiest.subject.name,
        best_untuned_on_test_value=luckiest.average.value,
    )


def _difference(
    pair: tuple[SystemFigures, SystemFigures], figures: Sequence[ByTask], findings: Findings
) -> list[Result]:
    """Tuned minus best untuned, both chosen on dev, as rows of their own."""
    ours, rival = figures
    subject = Subject.from_difference(pair[0].subject, pair[1].subject)
    dev = None if findings.dev is None else findings.dev.name
    return [
        Result.from_figure(subject, task, one.minus(other), chosen_on=dev)
        for task in (*(test.name for test in findings.tests), AVERAGE)
        for one, other in zip(ours[task], rival[task], strict=True)
    ]


def _clean(
    item: SystemFigures,
    tests: Sequence[StsTask],
    clean: Mapping[str, Bool[np.ndarray, " _"]],
    resamples: int,
    seed: int,
) -> ByTask:
    """The main figure on the pairs that training has not seen: the same pairs for every system."""
    figures: dict[str, Sequence[Figure]] = {}
    for task in tests:
        row, rows = item.measured[task.name], np.flatnonzero(clean[task.name])
        if len(rows) == len(task.test_pairs):
            figures[task.name] = [replace(row.figures[0], clean=True)]
        else:
            figures[task.name] = [clean_figure(task, _evidence(row), rows, resamples, seed)]
    return with_average(figures, tests)


def _similarities(item: SystemFigures, tests: Sequence[StsTask], resamples: int, seed: int) -> ByTask:
    """Other similarities of the same vectors."""
    figures = {
        task.name: task.similarity_figures(_evidence(item.measured[task.name]), resamples, seed) for task in tests
    }
    return with_average(figures, tests)


def _evidence(row: Measured) -> SimilarityEvidence:
    assert isinstance(row.evidence, SimilarityEvidence)
    return row.evidence
