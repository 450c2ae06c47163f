"""report.json: every figure of the page, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from eval.diagnostics import Confusion, PrecisionRecall
from eval.report import Report
from eval.results import Comparison
from eval.sweep import SweepPoint


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
    }
    return json.dumps(_finite(tree), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _comparison(found: Comparison) -> dict[str, object]:
    return {**asdict(found), "is_tie": found.is_tie}


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
