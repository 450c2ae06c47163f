"""Texts that `max_length` cut, as the report shows them: beside each task, in a table, and as a warning."""

from __future__ import annotations

from collections.abc import Sequence

from eval.report.blocks import Section, Table
from eval.results.truncation import GRAVE, Truncation, worst

HEADER = ("task", "part", "read by", "max_length", "texts", "cut", "share")


def beside_task(found: Sequence[Truncation], task: str) -> list[str]:
    """A line for the section of a task; none where nothing is known of it."""
    rows = [row for row in found if row.task == task]
    if not rows:
        return []
    return [f"Texts cut by max_length: {_listed(worst(rows, task))}."]


def truncation_sections(found: Sequence[Truncation]) -> list[Section]:
    """Every count above 0."""
    rows = [_cells(row) for row in found if row.cut]
    text = "Distinct test texts with more tokens than max_length, prompt included: only their beginning was read."
    return [Section("Texts cut by max_length", [text], [Table(HEADER, rows)])] if rows else []


def truncation_notes(found: Sequence[Truncation]) -> list[str]:
    """A warning for each task of which an encoder cut more than a few texts."""
    tasks = dict.fromkeys(row.task for row in found)
    grave = {task: [row for row in worst(found, task) if row.share > GRAVE] for task in tasks}
    return [
        f"Warning: {task}: only the beginning was read of {_listed(rows)}. Its figures are of texts cut "
        "to this length: model.max_length lets the untuned decoder read more; a tuned run reads as it was trained to."
        for task, rows in grave.items()
        if rows
    ]


def truncation_line(found: Sequence[Truncation]) -> str:
    """What is said on the terminal; empty if no text was cut."""
    tasks = dict.fromkeys(row.task for row in found if row.cut)
    listed = "; ".join(f"{task}: {_listed(worst(found, task))}" for task in tasks)
    return f"max_length cuts texts of {listed}" if listed else ""


def _listed(rows: Sequence[Truncation]) -> str:
    return ", ".join(_one(row) for row in rows) or "none"


def _one(row: Truncation) -> str:
    share = f"{100 * row.share:.1f} %"
    return f"{row.cut:,} of {row.texts:,} {row.part} ({share}; {row.reader}, {row.max_length} tokens)"


def _cells(row: Truncation) -> list[str]:
    numbers = [str(row.max_length), f"{row.texts:,}", f"{row.cut:,}", f"{100 * row.share:.1f} %"]
    return [row.task, row.part, row.reader, *numbers]
