"""The tables of `dec2vec compare`: tuned runs with what they gain, and the untuned systems on which they gain."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_bytes, why_not_written
from dec2vec.text_tables import markdown_table
from eval.compare.saved_report import SavedReport
from eval.report.blocks import Table
from eval.report.html import html_table, page
from eval.report.numbers import hundred, signed, signed_span, span
from eval.results.comparisons import not_corrected
from eval.results.results import AVERAGE
from eval.systems.recipes import unlike
from eval.systems.seeds import by_recipe, mean_and_sd

NOTE = "Spearman x 100; mean and sd (sample standard deviation) over the seeds of a recipe."


def notes_of(reports: Sequence[SavedReport], *, group: bool = False) -> list[str]:
    """What a reader of the tables must know."""
    compared = not_corrected(sum(report.p_value is not None for report in reports))
    return [NOTE, *([compared] if compared else []), *seed_warnings(reports, group=group), *older_notes(reports)]


def check_comparable(reports: Sequence[SavedReport]) -> None:
    """UserError unless all runs have the same tests with the same pairs, and different names."""
    first = reports[0]
    for report in reports[1:]:
        if set(report.tests) != set(first.tests):
            raise UserError(
                f"{report.path} was tested on {', '.join(report.tests)}, {first.path} on {', '.join(first.tests)};"
                " compare runs on the same tests"
            )
        for test, digest in report.tests.items():
            if digest != first.tests[test]:
                raise UserError(f"{test} has different pairs in {report.path} and {first.path}; evaluate both again")
    names = [report.name for report in reports]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two runs have the name {twice}: give each once, and rename a folder if they differ")


def comparison_tables(reports: Sequence[SavedReport], *, group: bool = False) -> list[Table]:
    """A table of the tuned runs, the seeds of a recipe followed by their mean; one of the untuned systems; and one of
    the outside rows, where there are some."""
    tests = list(reports[0].tests)
    columns = [*tests, AVERAGE] if len(tests) > 1 else tests
    header = ["run", *columns, "95 % interval", "minus untuned", "95 % interval", "p"]
    rows: list[list[str]] = []
    for recipe, members in _recipes(reports, group).items():
        rows += [_row(report, columns) for report in members]
        if len(members) > 1:
            rows += _spread(recipe, members, columns)
    return [
        Table(header, rows),
        Table(["untuned", *header[1 : len(columns) + 2], "of"], _untuned(reports, columns)),
        *_outside(reports),
    ]


def older_notes(reports: Sequence[SavedReport]) -> list[str]:
    """Where reports are put side by side whose headlines are of different things."""
    older = [report.name for report in reports if report.is_older]
    if not older or len(older) == len(reports):
        return []
    return [
        f"Warning: {', '.join(older)}: reports of an earlier version, whose headline is the post-processing that dev "
        "preferred, while the others show the run as it is exported; evaluate these runs again."
    ]


def _outside(reports: Sequence[SavedReport]) -> list[Table]:
    """The best outside row of each report, picked by its test figure, and tuned minus it."""
    rows = [
        [
            report.name,
            found.name,
            hundred(found.score.value),
            span(found.score.low, found.score.high),
            signed(found.gap.value),
            signed_span(found.gap.low, found.gap.high, found.gap.no_interval),
        ]
        for report in reports
        if (found := report.outside) is not None
    ]
    header = ["run", "best outside row", AVERAGE, "95 % interval", "tuned minus it", "95 % interval"]
    return [Table(header, rows)] if rows else []


def seed_warnings(reports: Sequence[SavedReport], *, group: bool = False) -> list[str]:
    """A warning for each group of runs that were not trained with the same options."""
    grouped = [(recipe, members) for recipe, members in _recipes(reports, group).items() if len(members) > 1]
    warnings = [unlike(recipe, {report.name: report.recipe for report in members}) for recipe, members in grouped]
    return [line for line in warnings if line is not None]


def _recipes(reports: Sequence[SavedReport], group: bool) -> dict[str, list[SavedReport]]:
    """Runs by their name without its seed."""
    return {"all runs": list(reports)} if group else by_recipe(reports, lambda report: report.name)


def _row(report: SavedReport, columns: Sequence[str]) -> list[str]:
    """A run's row; a report without a tuned system shows its best untuned one."""
    top = report.score(report.best, AVERAGE)
    gain = report.gain
    return [
        report.name if report.tuned is not None else f"{report.name} (nothing tuned)",
        *(hundred(report.score(report.best, column).value) for column in columns),
        span(top.low, top.high, top.no_interval),
        "–" if gain is None else f"{100 * gain.value:+.2f}",
        "–"
        if gain is None
        else span(gain.low, gain.high, gain.no_interval) + (" (tie)" if gain.low <= 0 <= gain.high else ""),
        "–" if report.p_value is None else f"{report.p_value:.3f}",
    ]


def _spread(recipe: str, members: Sequence[SavedReport], columns: Sequence[str]) -> list[list[str]]:
    gains = [float("nan") if report.gain is None else report.gain.value for report in members]
    figures = [
        [*(report.score(report.best, column).value for column in columns), gain]
        for report, gain in zip(members, gains, strict=True)
    ]
    titles = [f"{kind} of {recipe} (n = {len(members)})" for kind in ("mean", "sd")]
    rows = zip(titles, mean_and_sd(np.array(figures)), strict=True)
    return [[name, *map(hundred, row[:-1]), "", hundred(row[-1]), "", ""] for name, row in rows]


def _untuned(reports: Sequence[SavedReport], columns: Sequence[str]) -> list[list[str]]:
    """One row for each distinct untuned system, with the runs that are compared with it."""
    owners: dict[tuple[str, ...], list[str]] = {}
    for report in reports:
        if report.untuned is not None:
            average = report.score(report.untuned, AVERAGE)
            figures = (hundred(report.score(report.untuned, column).value) for column in columns)
            row = (report.untuned, *figures, span(average.low, average.high, average.no_interval))
            owners.setdefault(row, []).append(report.name)
    return [[*row, "all" if len(names) == len(reports) else ", ".join(names)] for row, names in owners.items()]


def write_tables(path: Path, tables: Sequence[Table], notes: Sequence[str]) -> None:
    """Write Markdown or HTML, by the suffix."""
    if path.suffix == ".md":
        parts = [line for table in tables for line in (*markdown_table(table.header, table.rows), "")]
        text = "\n".join(["# Comparison of runs", "", *(line for note in notes for line in (note, "")), *parts])
    else:
        lead = [f"<p>{escape(note)}</p>" for note in notes]
        text = page("dec2vec comparison", ["<h1>Comparison of runs</h1>", *lead, *map(html_table, tables)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(path, text.encode())
    except OSError as error:
        raise UserError(f"{path}: can't be written; {why_not_written(error, '--output')}") from error
