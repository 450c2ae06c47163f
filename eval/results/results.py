"""Judged systems -> figures with intervals, and the paired comparison of tuned and best untuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Never

import numpy as np
from jaxtyping import Float64
from tqdm import tqdm

from eval.metrics.correlation import AGGREGATIONS, Aggregation, spearman_over_subsets
from eval.metrics.statistics import Bootstrap, Interval, interval, p_value
from eval.selection.choose import Choice, best
from eval.systems.system import System
from eval.tasks.sts import StsTask

AVERAGE = "average"
"""The plain mean over the test sets, as a task of its own."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A chosen system and its cosines of every task's pairs, dev included."""

    choice: Choice
    cosines: dict[str, Float64[np.ndarray, " _"]]
    similarities: Mapping[str, Mapping[str, Float64[np.ndarray, " _"]]] = field(default_factory=dict)
    """Of every test: dot products, distances and cosines (see `eval.results.similarities`)."""

    @property
    def system(self) -> System:
        return self.choice.system


@dataclass(frozen=True)
class Result:
    """One figure. Correlations lie in -1..1; `chosen_on` names the file that decided layer and strength."""

    system: str
    task: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    n: int
    chosen_on: str | None


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


@dataclass(frozen=True, eq=False)
class Figure:
    """A value with the values it takes in the resamples, which pairs it with every other system's."""

    value: float
    resampled: Float64[np.ndarray, " resamples"]
    n: int

    def minus(self, other: Figure) -> Figure:
        return Figure(self.value - other.value, self.resampled - other.resampled, self.n)

    @classmethod
    def mean(cls, figures: Sequence[Figure]) -> Figure:
        """Over test sets, which are resampled independently of each other."""
        value = float(np.mean([figure.value for figure in figures]))
        return cls(value, np.mean([figure.resampled for figure in figures], axis=0), sum(f.n for f in figures))


_Figures = dict[tuple[str, str, Aggregation], Figure]
"""By system, task and aggregation."""


def summarize(
    judged: Sequence[Judged],
    dev: StsTask,
    tests: Sequence[StsTask],
    *,
    resamples: int,
    seed: int,
    progress: bool = True,
) -> tuple[list[Result], Comparison | None]:
    """Every system on every task and on the average; then the differences, if something was tuned."""
    figures: _Figures = {}
    with tqdm(
        total=len(judged) * (1 + len(tests)), desc="bootstrap", delay=3.0, disable=not progress, leave=False
    ) as bar:
        for task in (dev, *tests):
            _judge_task(figures, judged, task, Bootstrap(task.gold, task.subsets, resamples=resamples, seed=seed), bar)
    for item in judged:
        for aggregation in AGGREGATIONS:
            parts = [figures[item.system.name, task.name, aggregation] for task in tests]
            figures[item.system.name, AVERAGE, aggregation] = Figure.mean(parts)
    chosen_on = {item.system.name: item.choice.chosen_on for item in judged}
    results = [
        to_result(name, task, f"spearman_{aggregation}", figure, chosen_on[name])
        for (name, task, aggregation), figure in figures.items()
    ]
    comparison = _compare(judged, figures)
    if comparison is not None:
        results += _differences(comparison, figures, dev, tests)
    return results, comparison


def _judge_task(
    figures: _Figures, judged: Sequence[Judged], task: StsTask, bootstrap: Bootstrap, bar: tqdm[Never]
) -> None:
    for item in judged:
        cosines = item.cosines[task.name]
        resampled = bootstrap.aggregations(cosines)
        for aggregation in AGGREGATIONS:
            value = spearman_over_subsets(cosines, task.gold, task.subsets, aggregation)
            figures[item.system.name, task.name, aggregation] = Figure(value, resampled[aggregation], len(task))
        bar.update()


def _compare(judged: Sequence[Judged], figures: _Figures) -> Comparison | None:
    tuned = [item.choice for item in judged if item.system.is_tuned]
    untuned = [item.choice for item in judged if not item.system.is_tuned and not item.system.is_transductive]
    if not tuned or not untuned:
        return None
    ours, rival = best(tuned).system.name, best(untuned).system.name
    averages = {choice.system.name: figures[choice.system.name, AVERAGE, "all"] for choice in (*tuned, *untuned)}
    luckiest = max((c.system.name for c in untuned), key=lambda name: np.nan_to_num(averages[name].value, nan=-np.inf))
    difference = averages[ours].minus(averages[rival])
    return Comparison(
        tuned=ours,
        untuned=rival,
        tuned_value=averages[ours].value,
        untuned_value=averages[rival].value,
        difference=interval(difference.value, difference.resampled),
        p_value=p_value(difference.resampled),
        resamples=len(difference.resampled),
        best_untuned_on_test=luckiest,
        best_untuned_on_test_value=averages[luckiest].value,
    )


def _differences(comparison: Comparison, figures: _Figures, dev: StsTask, tests: Sequence[StsTask]) -> list[Result]:
    """Tuned minus best untuned, both chosen on dev, as rows of their own."""
    name = f"{comparison.tuned} minus {comparison.untuned}"
    rows = []
    for task in (*(task.name for task in tests), AVERAGE):
        for aggregation in AGGREGATIONS:
            ours, rival = (
                figures[comparison.tuned, task, aggregation],
                figures[comparison.untuned, task, aggregation],
            )
            rows.append(to_result(name, task, f"spearman_{aggregation}_difference", ours.minus(rival), dev.name))
    return rows


def to_result(system: str, task: str, metric: str, figure: Figure, chosen_on: str | None) -> Result:
    """The figure with its interval."""
    found = interval(figure.value, figure.resampled)
    return Result(system, task, metric, found.value, found.low, found.high, figure.n, chosen_on)
