"""The page as data, top down: what report.md and report.html both show, in the same order and the same strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from eval.leakage.overlap import RULE
from eval.metrics.similarities import SIMILARITIES
from eval.report.blocks import Picture, Section, Table
from eval.report.figure_sections import (
    confusion_section,
    cosine_sections,
    curve_sections,
    dev_sections,
    scatter_sections,
)
from eval.report.numbers import hundred, span
from eval.report.overview import HEADER, overview_rows
from eval.report.quality_and_cost import quality_and_cost
from eval.report.report import Report, metric_label, table_header, table_rows, task_text
from eval.report.truncation import beside_task, truncation_sections
from eval.results.results import AVERAGE, Result, TaskTable
from eval.selection.choose import Selection

MAX_ROWS = 12
"""Rows of a further task's table above its fold."""
COUNTS = frozenset({"effective rank"})
"""Metrics that are no shares: shown as they are."""
TEXT_START = 80
"""Characters of a text that are shown."""


def sections(report: Report) -> list[Section]:
    """Those that have data."""
    found = [
        _overview(report),
        *_further(report, report.led),
        *([_systems(report)] if report.tests else []),
        *quality_and_cost(report),
        *_further(report, report.others),
        *mistake_sections(report),
        *([_intervals(report)] if report.tests else []),
        *dev_sections(report),
        *cosine_sections(report),
        *scatter_sections(report),
        *(confusion_section(item, index) for index, item in enumerate(report.confusions)),
        *curve_sections(report),
        *([_subsets(report), similarity_section(report)] if report.tests else []),
        *_overlap(report),
        *truncation_sections(report.truncation),
        cost_section(report),
    ]
    return [section for section in found if section.blocks]


def _systems(report: Report) -> Section:
    text = ["Spearman x 100 over all pairs of a set."]
    if report.dev:
        text = [f"{text[0][:-1]}; layer, k and the untuned row of the headline are selected on {report.dev}."]
    if report.best_untuned is not None:
        text.append(f"Untuned row of the headline: {report.best_untuned}.")
    text += [f"{test}: {line}" for test in report.tests for line in beside_task(report.truncation, test)]
    header = table_header(report)
    best, tuned = report.best_untuned, report.tuned_names
    blocks = [Table(header, table_rows(report, report.highlights), best, tuned=tuned)]
    if len(report.systems) > len(report.highlights):
        rows = table_rows(report, report.systems)
        blocks.append(Table(header, rows, best, f"Every system ({len(rows)} rows)", tuned))
    return Section("Systems and tests", text, blocks)


def _overview(report: Report) -> Section:
    """The result in one table."""
    rows = overview_rows(report)
    text = (
        "The tuned run is shown as it is exported. The untuned row is the best on the task's own dev data; without "
        "them it is read as the tuned run, and other untuned rows may be above it: that column says whether any is. "
        "The outside row is the highest on the test. A difference is called higher or lower if its 95 % interval does "
        "not contain 0; no difference is corrected for the number of tasks."
    )
    return Section("Tuned run, untuned and outside systems", [text], [Table(HEADER, rows)] if len(rows) > 1 else [])


def _further(report: Report, tables: Sequence[TaskTable]) -> list[Section]:
    return [
        Section(
            f"Task: {task.name}",
            [*task_text(task), *beside_task(report.truncation, task.name)],
            _task_tables(task),
        )
        for task in tables
    ]


def _task_tables(task: TaskTable) -> list[Table | Picture]:
    """Tuned rows, the rows of the comparison and the best others; the full table folded below."""
    table = _task_table(task)
    if len(table.rows) <= MAX_ROWS:
        return [table]
    kept = [row for row in table.rows if row[0] in table.tuned or row[0] == table.best]
    others = [row for row in table.rows if row not in kept]
    shown = [*kept, *others[: max(3, MAX_ROWS - len(kept))]]
    few = replace(table, rows=[row for row in table.rows if row in shown])
    return [few, replace(table, fold=f"Every system ({len(table.rows)} rows)")]


def _task_table(task: TaskTable) -> Table:
    """A row a system; the main metric with its interval first. The difference stands below the tuned rows."""
    subjects = {row.system: row.subject for row in task.rows}
    rows = {(row.system, row.metric, row.clean): row for row in task.rows}
    main = {name: rows[name, task.metric, False].value for name in subjects if (name, task.metric, False) in rows}
    kinds = {name: subject.kind for name, subject in subjects.items()}
    order = sorted(
        subjects,
        key=lambda name: (
            not subjects[name].is_tuned,
            kinds[name] == "difference",
            kinds[name] not in ("mean", "sd"),
            0.0 if kinds[name] == "difference" else -main.get(name, float("-inf")),
        ),
    )
    has_choices = any(row.chosen for row in task.rows)
    lines = [_task_line(task, name, rows, has_choices=has_choices) for name in order]
    titles = [_title(*column) for column in task.columns]
    chosen = ["chosen on dev"] if has_choices else []
    header = ["system", titles[0], "95 % interval", "selected on", *_dev_title(task), *chosen, *titles[1:], "n"]
    rival = None if task.headline is None else task.headline.untuned
    tuned = [name for name, subject in subjects.items() if subject.is_tuned]
    return Table(header, lines, None if rival is None else rival.name, tuned=tuned)


def _dev_title(task: TaskTable) -> list[str]:
    """What the dev figures are of; no column where there are none."""
    titles = {(row.dev_metric, row.dev_data) for row in task.rows if row.dev is not None}
    return [f"dev: {metric} x 100 on {data}" for metric, data in sorted(titles, key=str)][:1]


WORDS: Mapping[Selection | None, str] = {"fixed": "fixed", "none": "not selected", None: "–"}
"""How a system came about, where no dev data chose it."""


def _selected(row: Result) -> str:
    other = ", another task" if row.selection == "other dev" else ""
    return f"{row.chosen_on}{other}" if row.chosen_on and row.selection else WORDS.get(row.selection, "–")


def _task_line(
    task: TaskTable, name: str, rows: Mapping[tuple[str, str, bool], Result], *, has_choices: bool
) -> list[str]:
    found = [rows.get((name, *column)) for column in task.columns]
    main, cells = found[0], ["–" if row is None else _cell(row.metric, row.value) for row in found]
    if main is None:
        interval, where, dev, chosen, n = "–", "–", "–", "–", "–"
    else:
        dev = "–" if main.dev is None else hundred(main.dev)
        interval = span(main.low, main.high, main.no_interval, main.conservative)
        where, chosen, n = _selected(main), main.chosen or "–", f"{main.n}"
    devs = [dev] if _dev_title(task) else []
    return [name, cells[0], interval, where, *devs, *([chosen] if has_choices else []), *cells[1:], n]


def _title(metric: str, clean: bool) -> str:
    label = metric_label(metric, clean)
    return label if metric in COUNTS else f"{label} x 100"


def _cell(metric: str, value: float) -> str:
    return f"{value:.1f}" if metric in COUNTS else hundred(value)


def mistake_sections(report: Report) -> list[Section]:
    """The surest mistakes of each topic task's headline system."""
    found = []
    for item in report.mistakes:
        rows = [
            [_start(wrong.text), wrong.gold, wrong.predicted, f"{wrong.lead:.4f}", f"{wrong.deficit:.4f}"]
            for wrong in item.shown
        ]
        text = (
            f"{item.system}: {item.total} of {item.n} test texts were assigned to a wrong class. The table shows the "
            "most confident ones."
        )
        text += " Lead: best score minus second-best score; deficit: score of the true class minus best score."
        header = ["text", "gold", "predicted", "lead", "deficit"]
        found.append(Section(f"Mistakes: {item.task}", [text], [Table(header, rows)] if rows else []))
    return found


def _start(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TEXT_START else f"{line[:TEXT_START].rstrip()} ..."


def _intervals(report: Report) -> Section:
    pictures = [
        Picture("averages.png", f"{_average_of(report)}, with 95 % intervals, best first."),
        Picture(
            "tests.png",
            "Each test set, with 95 % intervals: the tuned system, the best untuned system, and the untuned system "
            "with the settings of the tuned one.",
        ),
    ]
    return Section("Intervals", [], pictures)


def _average_of(report: Report) -> str:
    return f"Average of the {len(report.tests)} test sets" if len(report.tests) > 1 else f"Test set {report.tests[0]}"


def _subsets(report: Report) -> Section:
    """The average in the three aggregations over sub-sets."""
    metrics = ("spearman_all", "spearman_mean", "spearman_wmean")
    rows = [
        [name, *(hundred(report.result(name, AVERAGE, metric).value) for metric in metrics)] for name in report.systems
    ]
    header = ["system", "all (concatenated)", "mean over sub-sets", "weighted mean"]
    text = "Spearman x 100, average over the test sets."
    table = Table(header, rows, report.best_untuned, f"Every system ({len(rows)} rows)", report.tuned_names)
    return Section("Aggregation over sub-sets", [text], [table])


OVERLAP_HEADER = ("training side", "evaluation", "texts", "exact", "normalised", "near", "pairs")
OVERLAP_MORE = ("pairs with both texts", "clean pairs")
OVERLAP_FIELDS = (
    "training",
    "evaluation",
    "texts",
    "exact",
    "normalized",
    "near",
    "pairs",
    "pairs_with_both",
    "pairs_clean",
)


def _overlap(report: Report) -> list[Section]:
    if not report.overlap:
        return []
    counts = [[str(vars(row)[name]) for name in OVERLAP_FIELDS] for row in report.overlap]
    blocks = [Table([*OVERLAP_HEADER, *OVERLAP_MORE], counts)]
    clean = _clean_rows(report)
    if clean:
        header = ["system", "pairs used", *report.columns, "95 % interval"]
        blocks.append(Table(header, clean, tuned=report.tuned_names))
    return [Section("Overlap of training and evaluation texts", [f"Distinct texts; {RULE}."], blocks)]


def _clean_rows(report: Report) -> list[list[str]]:
    """Full and clean scores below each other, then the difference of the headline, then how many pairs there are."""
    shown = [name for name in report.systems if report.has(name, AVERAGE, clean=True)]
    if not shown:
        return []
    both = ((False, "all"), (True, "clean"))
    names = [*shown, *([] if report.gain is None else [report.gain])]
    rows = [_scores(report, name, clean, label) for name in names for clean, label in both]
    for clean, label in both:
        counts = [str(report.result(shown[0], task, clean=clean).n) for task in report.columns]
        rows.append(["pairs", label, *counts, ""])
    return rows


def _scores(report: Report, name: str, clean: bool, label: str) -> list[str]:
    figures = [hundred(report.result(name, task, clean=clean).value) for task in report.columns]
    average = report.result(name, AVERAGE, clean=clean)
    return [name, label, *figures, span(average.low, average.high, average.no_interval)]


OTHERS = {
    f"{kind} {name}": f"{kind.lower()}_{name}"
    for name in SIMILARITIES
    for kind in ("Spearman", "Pearson")
    if (kind, name) != ("Spearman", "cosine")
}
"""Title -> metric, as in report.json."""


def similarity_section(report: Report) -> Section:
    """Spearman and Pearson of every similarity, of the systems for which they were measured.

    Without dev data that is Pearson of cosines alone: the ranges that the others need are those of dev vectors.
    """
    shown = [name for name in report.systems if report.has(name, AVERAGE, "pearson_cosine")]
    titles = [title for title, metric in OTHERS.items() if all(report.has(name, AVERAGE, metric) for name in shown)]
    rows = []
    for name in shown:
        average = report.result(name, AVERAGE)
        others = [hundred(report.result(name, AVERAGE, OTHERS[title]).value) for title in titles]
        interval = span(average.low, average.high, average.no_interval)
        rows.append([name, hundred(average.value), interval, *others])
    text = (
        "x 100, average over the test sets; distances are negated. Settings were selected by the Spearman correlation "
        "of cosines."
    )
    header = ["system", "Spearman cosine", "95 % interval", *titles]
    table = Table(header, rows, report.best_untuned, tuned=report.tuned_names)
    return Section("Other similarities", [text], [table] if rows else [])


def cost_section(report: Report) -> Section:
    """What went through a decoder in this evaluation."""
    rows = []
    for name, cost in report.costs.items():
        counts = (cost.texts, cost.tokens, cost.prefix_tokens, cost.spared_tokens)
        rows.append([name, *(f"{count:,}" for count in counts), f"{cost.seconds:.1f}"])
    text = "Cost of this evaluation only; cached vectors are not included. A shared prompt is computed once for many"
    text += " texts; saved is the number of tokens that computing it for each text would have added."
    header = ["encoder and prompt", "texts", "tokens computed", "of which shared prompt", "tokens saved", "seconds"]
    return Section("Cost", [text], [Table(header, rows)] if rows else [])
