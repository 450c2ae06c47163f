"""report.json: every figure of the page, for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from eval.report.report import Report, metric_label, similarity_label, similarity_lines, task_text
from eval.results.diagnostics import Confusion, PrecisionRecall
from eval.results.headline import Headline
from eval.results.results import AVERAGE, Result, TaskTable
from eval.selection.dev_curves import CurvePoint
from eval.systems.seeds import Seeds, find_seeds, mean_and_sd


def to_json(report: Report) -> str:
    """A figure that does not exist is null, as JSON has no nan."""
    tables = [*report.led, *report.others]
    tree = {
        "provenance": dict(report.provenance),
        "results": [_result(row) for row in report.results],
        "overlap": [asdict(overlap) for overlap in report.overlap],
        "dev": report.dev,
        "tests": list(report.tests),
        "comparison": _comparison(report.comparison),
        "tasks": [{**_task(task), "truncation": _truncation(report, task.name)} for task in tables],
        "truncation": [row for test in (report.dev, *report.tests) for row in _truncation(report, test)],
        "sweep": _columns(report.dev_curves),
        "confusions": [_confusion(item) for item in report.confusions],
        "curves": [_curve(item) for item in report.curves],
        "mistakes": [asdict(item) for item in report.mistakes],
        "seeds": [row for seeds in find_seeds(report.subjects.values()) for row in _spread(report, seeds)],
        "costs": {name: asdict(cost) for name, cost in report.costs.items()},
        "notes": list(report.notes),
        "efforts": {name: asdict(effort) for name, effort in report.efforts.items()},
        "headlines": _headlines(report),
        "leading": report.leading,
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
            "dev_data": row.dev_data,
            "dev_metric": row.dev_metric,
            "chosen": row.chosen,
            "chosen_on": row.chosen_on,
            **_fields(row),
        }
        for row in table.rows
    ]
    return {
        "name": table.name,
        "kind": table.kind,
        "metric": table.metric,
        "rows": rows,
        "note": " ".join(task_text(table)),
    }


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
        "fitted_on": subject.fitted_on,
        "clean": row.clean,
        "exported": subject.exported,
        "selection": row.selection,
        "no_interval": row.no_interval,
        "conservative": row.conservative,
    }


def _headlines(report: Report) -> list[dict[str, object]]:
    """Of the average over the similarity tests, then of each further task, with the sentences of the page.

    Tasks of the kind that chose the checkpoint come first.
    """
    led, others = (
        [(table.name, table.headline, task_text(table)) for table in tables] for tables in (report.led, report.others)
    )
    similarity = [(AVERAGE, report.comparison, similarity_lines(report))]
    return [
        {"task": task, **asdict(found), "sentences": lines}
        for task, found, lines in (*led, *similarity, *others)
        if found is not None
    ]


def _comparison(found: Headline | None) -> dict[str, object] | None:
    """The similarity headline in the fields of earlier versions, for programs that know these."""
    if found is None or found.tuned is None or found.untuned is None or found.highest_untuned is None:
        return None
    gap = found.to_untuned
    assert gap is not None
    return {
        "tuned": found.tuned.name,
        "untuned": found.untuned.name,
        "tuned_value": found.tuned.value,
        "untuned_value": found.untuned.value,
        "difference": {"value": gap.value, "low": gap.low, "high": gap.high},
        "p_value": gap.p_value,
        "resamples": found.resamples,
        "best_untuned_on_test": found.highest_untuned.name,
        "best_untuned_on_test_value": found.highest_untuned.value,
        "is_tie": gap.is_tie,
    }


def _spread(report: Report, seeds: Seeds) -> list[dict[str, object]]:
    """Mean and sample standard deviation over the runs, by task."""
    tasks = [*([report.dev] if report.dev else []), *report.tests, AVERAGE]
    names = [member.name for member in seeds.members]
    figures = np.array([[report.result(name, task).value for task in tasks] for name in names])
    return [
        {"recipe": seeds.label, "systems": names, "task": task, "mean": float(mean), "sd": float(sd)}
        for task, mean, sd in zip(tasks, *mean_and_sd(figures), strict=True)
    ]


def _truncation(report: Report, task: str) -> list[dict[str, object]]:
    """By part, encoder and prompt, how many of a task's texts were cut."""
    return [{**asdict(row), "share": row.share} for row in report.truncation if row.task == task]


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
