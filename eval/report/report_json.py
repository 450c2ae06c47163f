"""report.json: every figure of the page, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from eval.report.report import Report
from eval.results.diagnostics import Confusion, PrecisionRecall
from eval.results.results import AVERAGE, Comparison
from eval.selection.dev_curves import SweepPoint
from eval.systems.seeds import Seeds, mean_and_sd, seeds_of


def to_json(report: Report) -> str:
    """A figure that does not exist is null, as JSON has no nan."""
    tree = {
        "provenance": dict(report.provenance),
        "results": [asdict(result) for result in report.results],
        "overlap": [asdict(overlap) for overlap in report.overlap],
        "dev": report.dev,
        "tests": list(report.tests),
        "comparison": None if report.comparison is None else _comparison(report.comparison),
        "tasks": [asdict(task) for task in report.tasks],
        "sweep": _sweep(report.sweep),
        "confusions": [_confusion(item) for item in report.confusions],
        "curves": [_curve(item) for item in report.curves],
        "mistakes": [asdict(item) for item in report.mistakes],
        "seeds": [row for seeds in seeds_of(report.systems) for row in _spread(report, seeds)],
        "costs": {name: asdict(cost) for name, cost in report.costs.items()},
        "notes": list(report.notes),
    }
    return json.dumps(_finite(tree), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _comparison(found: Comparison) -> dict[str, object]:
    return {**asdict(found), "is_tie": found.is_tie}


def _spread(report: Report, seeds: Seeds) -> list[dict[str, object]]:
    """Mean and sample standard deviation over the runs, by task."""
    tasks = list(dict.fromkeys([report.dev, *report.tests, AVERAGE]))
    figures = np.array([[report.result(name, task).value for task in tasks] for name in seeds.systems])
    return [
        {"recipe": seeds.label, "systems": list(seeds.systems), "task": task, "mean": float(mean), "sd": float(sd)}
        for task, mean, sd in zip(tasks, *mean_and_sd(figures), strict=True)
    ]


def _sweep(points: Sequence[SweepPoint]) -> dict[str, object]:
    """As columns: a full matrix has tens of thousands of points."""
    rows = [asdict(point) for point in points]
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}


def _confusion(item: Confusion) -> dict[str, object]:
    return {"title": item.title, "labels": list(item.labels), "counts": item.counts.tolist()}


def _curve(item: PrecisionRecall) -> dict[str, object]:
    return {
        "title": item.title,
        "average_precision": item.average_precision,
        "threshold": item.threshold,
        "precision_at_threshold": item.at_threshold[0],
        "recall_at_threshold": item.at_threshold[1],
        "precision": item.precision.tolist(),
        "recall": item.recall.tolist(),
    }


def _finite(tree: object) -> object:
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
