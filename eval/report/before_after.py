"""The tuned encoder beside its own reading without tuning: histograms of cosines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from eval.report.report import DISSIMILAR, SIMILAR, Histogram
from eval.results.results import Judged
from eval.systems.system import System
from eval.tasks.sts import StsTask


def find_reference(
    judged: Sequence[Judged], references: Sequence[System], tuned: str | None
) -> tuple[Judged, Judged] | None:
    """The raw tuned system of the headline's run, and the same reading of the untuned decoder, if that could be had."""
    runs = list(dict.fromkeys(item.system.run for item in judged if item.system.is_tuned))
    by_system = {item.system: item for item in judged}
    for run, reference in zip(runs, references, strict=True):
        names = {item.system.name for item in judged if item.system.run == run}
        after, before = by_system.get(replace(reference, run=run)), by_system.get(reference)
        if tuned in names and after is not None and before is not None:
            return after, before
    return None


def histograms(tests: Sequence[StsTask], reference: tuple[Judged, Judged] | None) -> list[Histogram]:
    """Before and after, unless no pair is similar or none is dissimilar."""
    panels = [_histogram(tests, item) for item in reversed(reference)] if reference is not None else []
    return panels if all(len(panel.similar) and len(panel.dissimilar) for panel in panels) else []


def _histogram(tests: Sequence[StsTask], item: Judged) -> Histogram:
    """Pairs of all tests whose gold score is in the top or bottom fifth of its test's range."""
    cosines = np.concatenate([item.cosines[task.name] for task in tests])
    shares = np.concatenate([(task.gold - task.gold.min()) / np.ptp(task.gold) for task in tests])
    moment = "after" if item.system.is_tuned else "before"
    finite = np.isfinite(cosines)
    similar, dissimilar = cosines[finite & (shares >= SIMILAR)], cosines[finite & (shares <= DISSIMILAR)]
    return Histogram(f"{moment} tuning: {item.system.name}", similar, dissimilar)
