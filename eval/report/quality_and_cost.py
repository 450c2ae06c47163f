"""Every system with its main figures, beside what it costs: parameters, length of a vector, texts a second."""

from __future__ import annotations

from collections.abc import Sequence

from eval.report.blocks import Section, Table
from eval.report.numbers import hundred
from eval.report.overview import main_rows
from eval.report.report import Report
from eval.results.effort import Effort
from eval.results.results import AVERAGE, TaskTable

SHOWN = 3
"""Untuned rows of a further task that are shown, the best ones, besides its tuned rows and its baselines."""


def quality_and_cost(report: Report) -> list[Section]:
    """A row a system; nothing where no cost was measured."""
    if not report.efforts:
        return []
    names = list(dict.fromkeys([*report.systems, *_of_tasks(report.tasks)]))
    names = [name for name in names if name in report.efforts]
    shown = {*report.highlights, *(name for table in report.tasks for name in _leading(table))}
    baselines = {name for name in names if name.startswith("baseline/")}
    few = [name for name in names if name in shown | baselines]
    header = ["system", "parameters", "dimension", "texts/s", *_columns(report), "training data"]
    tuned = report.tuned_names
    blocks = [Table(header, _rows(report, few), report.best_untuned, tuned=tuned)]
    if len(few) < len(names):
        fold = f"Every system ({len(names)} rows)"
        blocks.append(Table(header, _rows(report, names), report.best_untuned, fold, tuned))
    text = (
        "Main figures x 100. Parameters are the weights that a text meets up to the layer that is read, with the input "
        "embeddings. Texts a second were measured here on a few dozen test texts, with whatever else the machine did: "
        "compare rows of this report only. What an encoder was trained on is not in the overlap report."
    )
    return [Section("Quality and cost", [text], list(blocks))]


def _of_tasks(tables: Sequence[TaskTable]) -> list[str]:
    rows = [row for table in tables for row in main_rows(table).values() if row.subject.kind in ("system", "baseline")]
    return [row.system for row in sorted(rows, key=lambda row: not row.subject.is_tuned)]


def _leading(table: TaskTable) -> list[str]:
    """Tuned rows, and the untuned ones that are the best on dev."""
    rows = [row for row in main_rows(table).values() if row.subject.kind == "system"]
    untuned = [row for row in rows if not row.subject.is_tuned and row.dev is not None]
    best = sorted(untuned, key=lambda row: -(row.dev or 0.0))[:SHOWN]
    return [row.system for row in [*(row for row in rows if row.subject.is_tuned), *best]]


def _columns(report: Report) -> list[str]:
    average = [AVERAGE if len(report.tests) > 1 else report.tests[0]] if report.tests else []
    return [*average, *(table.name for table in report.tasks)]


def _rows(report: Report, names: Sequence[str]) -> list[list[str]]:
    tables = [main_rows(table) for table in report.tasks]
    rows = []
    for name in names:
        figures = [] if not report.tests else [_figure(report, name)]
        figures += [hundred(table[name].value) if name in table else "–" for table in tables]
        effort = report.efforts[name]
        rows.append([name, *_cost(effort), *figures, effort.note or "–"])
    return rows


def _figure(report: Report, name: str) -> str:
    return hundred(report.result(name, AVERAGE).value) if report.has(name, AVERAGE) else "–"


def _cost(effort: Effort) -> list[str]:
    parameters = "–" if effort.parameters is None else f"{effort.parameters / 1e6:.1f} M"
    dimension = "–" if effort.dimension is None else f"{effort.dimension:,}"
    return [parameters, dimension, "–" if effort.texts_per_second is None else f"{effort.texts_per_second:,.0f}"]
