"""report.json: every figure of the page, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from eval.report.report import Report, metric_label, similarity_label
from eval.results.comparison import Comparison
from eval.results.diagnostics import Confusion, PrecisionRecall
from eval.results.results import AVERAGE, Result, TaskTable
from eval.selection.dev_curves import CurvePoint
from eval.systems.seeds import Seeds, find_seeds, mean_and_sd


def to_json(report: Report) -> str:
    """A figure that does not exist is null, as JSON has no nan."""
    tree = {
        "provenance": dict(report.provenance),
        "results": [_result(row) for row in report.results],
        "overlap": [asdict(overlap) for overlap in report.overlap],
        "dev": report.dev,
        "tests": list(report.tests),
        "comparison": None if report.comparison is None else _comparison(report.comparison),
        "tasks": [_task(task) for task in report.tasks],
        "sweep": _columns(report.dev_curves),
        "confusions": [_confusion(item) for item in report.confusions],
        "curves": [_curve(item) for item in report.curves],
        "mistakes": [asdict(item) for item in report.mistakes],
        "seeds": [row for seeds in find_seeds(report.subjects.values()) for row in _spread(report, seeds)],
        "costs": {name: asdict(cost) for name, cost in report.costs.items()},
        "notes": list(report.notes),
    }
    return json.dumps(_finite(tree), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _result(row: Result) -> dict[str, object]:
    """A row of the similarity tests."""
    return {
        "system": row.system,
        "task": row.task,
        "metric": similarity_label(row),
        "value": row.value,
        "ci_low": row.low,
        "ci_high": row.high,
        "n": row.n,
        "chosen_on": row.chosen_on,
        **_fields(row),
    }


def _task(table: TaskTable) -> dict[str, object]:
    """The table of a further task."""
    rows = [
        {
            "system": row.system,
            "metric": metric_label(row.metric, row.clean),
            "value": row.value,
            "low": row.low,
            "high": row.high,
            "n": row.n,
            "dev": row.dev,
            "chosen": row.chosen,
            **_fields(row),
        }
        for row in table.rows
    ]
    return {"name": table.name, "metric": table.metric, "rows": rows, "note": table.note}


def _fields(row: Result) -> dict[str, object]:
    """What a row is about, so that no program has to take its names apart."""
    subject = row.subject
    return {
        "kind": subject.kind,
        "of": list(subject.of),
        "run": subject.run,
        "post": subject.post,
        "k": subject.k,
        "transductive": subject.transductive,
        "clean": row.clean,
    }


def _comparison(found: Comparison) -> dict[str, object]:
    return {**asdict(found), "is_tie": found.is_tie}


def _spread(report: Report, seeds: Seeds) -> list[dict[str, object]]:
    """Mean and sample standard deviation over the runs, by task."""
    tasks = list(dict.fromkeys([report.dev, *report.tests, AVERAGE]))
    names = [member.name for member in seeds.members]
    figures = np.array([[report.result(name, task).value for task in tasks] for name in names])
    return [
        {"recipe": seeds.label, "systems": names, "task": task, "mean": float(mean), "sd": float(sd)}
        for task, mean, sd in zip(tasks, *mean_and_sd(figures), strict=True)
    ]


def _columns(points: Sequence[CurvePoint]) -> dict[str, object]:
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
