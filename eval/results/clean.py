"""The headline on the clean remainder: pairs of which neither text is in, or near to, the training-side text.

All systems are scored on the same remainder, whatever each was trained on, so that they stay comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from eval.metrics.correlation import spearman
from eval.metrics.statistics import Bootstrap
from eval.results.results import AVERAGE, Comparison, Figure, Judged, Result, to_result
from eval.tasks.sts import StsTask

CLEAN = "spearman_all_clean"
CLEAN_DIFFERENCE = "spearman_all_clean_difference"


def clean_results(
    judged: Sequence[Judged],
    tests: Sequence[StsTask],
    clean: Mapping[str, Bool[np.ndarray, " pairs"]],
    comparison: Comparison,
    dev: str,
    *,
    resamples: int,
    seed: int,
) -> list[Result]:
    """Rows `spearman_all_clean` of tuned systems and the best untuned ones (on dev, on test), and their difference.

    `clean` says of each test's pairs which are left. Where fewer than two are, or their gold scores are all
    equal, the figure is nan, and so is the average.
    """
    named = {comparison.untuned, comparison.best_untuned_on_test}
    shown = [item for item in judged if item.system.is_tuned or item.system.name in named]
    figures: dict[tuple[str, str], Figure] = {}
    for task in tests:
        scored = _scored(shown, task, np.flatnonzero(clean[task.name]), resamples, seed)
        figures |= {(name, task.name): figure for name, figure in scored.items()}
    for item in shown:
        name = item.system.name
        figures[name, AVERAGE] = Figure.mean([figures[name, task.name] for task in tests])
    chosen_on = {item.system.name: item.choice.chosen_on for item in shown}
    rows = [to_result(name, task, CLEAN, figure, chosen_on[name]) for (name, task), figure in figures.items()]
    return [*rows, *_differences(comparison, figures, [task.name for task in tests], dev)]


def _scored(shown: Sequence[Judged], task: StsTask, rows: np.ndarray, resamples: int, seed: int) -> dict[str, Figure]:
    gold, subsets = task.gold[rows], np.zeros(len(rows), dtype=np.int64)
    if len(rows) < 2 or np.ptp(gold) == 0:
        nothing = Figure(float("nan"), np.full(resamples, np.nan), len(rows))
        return {item.system.name: nothing for item in shown}
    bootstrap = Bootstrap(gold, subsets, resamples=resamples, seed=seed)
    found = {}
    for item in shown:
        cosines = item.cosines[task.name][rows]
        found[item.system.name] = Figure(spearman(cosines, gold), bootstrap.correlations(cosines), len(rows))
    return found


def _differences(
    comparison: Comparison, figures: Mapping[tuple[str, str], Figure], tests: Sequence[str], dev: str
) -> list[Result]:
    """Tuned minus best untuned on the remainder; both were chosen on all of dev."""
    name = f"{comparison.tuned} minus {comparison.untuned}"
    gaps = {
        task: figures[comparison.tuned, task].minus(figures[comparison.untuned, task]) for task in (*tests, AVERAGE)
    }
    return [to_result(name, task, CLEAN_DIFFERENCE, gap, dev) for task, gap in gaps.items()]
