"""The similarity tests: every system's figures, their averages, and the headline of the average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from eval.results.findings import Findings
from eval.results.headline import Entrant, Headline, make_headline
from eval.results.results import AVERAGE, Result
from eval.selection.choose import Choice
from eval.selection.judge import Measured
from eval.systems.subject import Subject
from eval.tasks.sts import SimilarityEvidence, StsTask
from eval.tasks.task import Figure, clean_figure

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

    @property
    def entrant(self) -> Entrant:
        """The row of the headline's table."""
        return Entrant(self.subject, self.average, self.choice)

    def results(self, figures: ByTask) -> list[Result]:
        """Rows of this system."""
        choice = self.choice
        chosen_on, selection = (None, None) if choice is None else (choice.chosen_on, choice.selection)
        return [
            Result.from_figure(self.subject, task, figure, chosen_on=chosen_on, selection=selection)
            for task, of_task in figures.items()
            for figure in of_task
        ]


def with_average(figures: ByTask, tests: Sequence[StsTask]) -> ByTask:
    """Also the mean of each figure over the tests."""
    columns = zip(*(figures[task.name] for task in tests), strict=True)
    return {**figures, AVERAGE: [Figure.mean(column) for column in columns]}


def similarity_results(
    findings: Findings, clean: Mapping[str, Bool[np.ndarray, " _"]], *, resamples: int, seed: int
) -> tuple[list[Result], Headline | None]:
    """Every system on every task and on the average; then what is shown of the tuned systems and their rivals.

    The headline is of the average; None without tests.

    `clean` says of each test's pairs which ones training has not seen.
    """
    systems, tests = _systems(findings), findings.tests
    if not tests:
        return [], None
    chosen = [item for item in systems if item.choice is not None]
    results = _table([(item, item.figures) for item in chosen])
    headline = make_headline([item.entrant for item in systems], has_dev=findings.dev is not None)
    by_name = {item.subject.name: item for item in systems}
    tuned, untuned, outside, luckiest = (
        None if party is None else by_name[party.name]
        for party in (headline.tuned, headline.untuned, headline.outside, headline.highest_untuned)
    )
    if tuned is not None:
        shown = [item for item in chosen if item.subject.run is not None or item in (untuned, luckiest)]
        on_clean = {item.subject.name: _clean(item, tests, clean, resamples, seed) for item in shown}
        results += _difference(tuned, untuned, findings)
        results += _table([(item, on_clean[item.subject.name]) for item in shown])
        results += _difference(tuned, untuned, findings, on_clean)
        results += _difference(tuned, outside, findings)
        results += [row for item in shown for row in item.results(_similarities(item, tests, resamples, seed))]
    return [*results, *_table([(item, item.figures) for item in systems if item.choice is None])], headline


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


def _difference(
    ours: SystemFigures,
    rival: SystemFigures | None,
    findings: Findings,
    figures: Mapping[str, ByTask] | None = None,
) -> list[Result]:
    """Tuned minus a rival as rows of their own; `figures` by system stand in for those on all pairs."""
    if rival is None:
        return []
    subject = Subject.from_difference(ours.subject, rival.subject)
    pair = [item.figures if figures is None else figures[item.subject.name] for item in (ours, rival)]
    dev = None if findings.dev is None else findings.dev.name
    return [
        Result.from_figure(subject, task, one.minus(other), chosen_on=dev)
        for task in (*(test.name for test in findings.tests), AVERAGE)
        for one, other in zip(pair[0][task], pair[1][task], strict=True)
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
