"""The page as data, top down: what report.md and report.html both show, in the same order and the same strings."""

from __future__ import annotations

from dataclasses import asdict

from eval.leakage.overlap import RULE
from eval.report.blocks import Picture, Section, Table
from eval.report.figure_sections import _confusion, _cosines, _curves, _scatter, _sweep
from eval.report.overview import HEADER, Duel, duels, overview_rows
from eval.report.report import Report, hundred, is_tuned, span, table_header, table_rows
from eval.results.clean import CLEAN, CLEAN_DIFFERENCE
from eval.results.results import AVERAGE
from eval.results.similarities import SIMILARITIES
from eval.results.task_results import TaskTable
from eval.systems.seeds import is_spread

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
        *([_systems(report)] if report.tests else []),
        *_further(report),
        *mistake_sections(report),
        *([_intervals(report)] if report.tests else []),
        *_sweep(report),
        *_cosines(report),
        *_scatter(report),
        *(_confusion(item, index) for index, item in enumerate(report.confusions)),
        *_curves(report),
        *([_subsets(report), similarity_section(report)] if report.tests else []),
        *_overlap(report),
        cost_section(report),
    ]
    return [section for section in found if section.blocks]


def _systems(report: Report) -> Section:
    text = [f"Spearman x 100 over all pairs of a set; layer, k and the best rows chosen on {report.dev}."]
    if report.best_untuned is not None:
        text.append(f"Best untuned row, chosen on {report.dev}: {report.best_untuned}.")
    header = table_header(report)
    blocks = [Table(header, table_rows(report, report.highlights), report.best_untuned)]
    if len(report.systems) > len(report.highlights):
        rows = table_rows(report, report.systems)
        blocks.append(Table(header, rows, report.best_untuned, f"Every system ({len(rows)} rows)"))
    return Section("Systems and tests", text, blocks)


def _overview(report: Report) -> Section:
    """For who reads no further."""
    rows = overview_rows(report)
    text = "A difference is called higher or lower where its 95 % interval holds no 0. Both systems of a row were"
    text += " chosen on dev data, by each task anew where it has its own."
    return Section("Tuned against the best untuned", [text], [Table(HEADER, rows)] if len(rows) > 1 else [])


def _further(report: Report) -> list[Section]:
    return [
        Section(f"Task: {task.name}", [task.note] if task.note else [], _task_tables(task)) for task in report.tasks
    ]


def _task_tables(task: TaskTable) -> list[Table | Picture]:
    """Tuned rows, the rows of the comparison and the best others; the whole table folded below."""
    duel = next(iter(duels(task)), None)
    rival = None if duel is None else duel.rival.system
    whole = _task_table(task, duel)
    if len(whole.rows) <= MAX_ROWS:
        return [whole]
    kept = [row for row in whole.rows if is_tuned(row[0]) or row[0] == rival]
    others = [row for row in whole.rows if row not in kept]
    best = [*kept, *others[: max(3, MAX_ROWS - len(kept))]]
    few = Table(whole.header, [row for row in whole.rows if row in best], rival)
    return [few, Table(whole.header, whole.rows, rival, f"Every system ({len(whole.rows)} rows)")]


def _task_table(task: TaskTable, duel: Duel | None) -> Table:
    """A row a system; the main metric with its interval first. The difference stands below the tuned rows."""
    rival, gap = (None, None) if duel is None else (duel.rival.system, duel.gap.system)
    rows = {(row.system, row.metric): row for row in task.rows}
    systems = list(dict.fromkeys(row.system for row in task.rows))
    main = {name: rows[name, task.metric].value for name in systems if (name, task.metric) in rows}
    systems.sort(
        key=lambda name: (not is_tuned(name), name == gap, not is_spread(name), -main.get(name, float("-inf")))
    )
    has_choices = any(row.chosen for row in task.rows)
    lines = []
    for name in systems:
        first = rows.get((name, task.metric))
        low, high = (None, None) if first is None else (first.low, first.high)
        cells = [_cell(m, rows[name, m].value) if (name, m) in rows else "–" for m in task.metrics]
        interval = "–" if low is None or high is None else span(low, high)
        dev = "–" if first is None or first.dev is None else hundred(first.dev)
        chosen = [("" if first is None else first.chosen) or "–"] if has_choices else []
        lines.append([name, cells[0], interval, dev, *chosen, *cells[1:], "–" if first is None else f"{first.n}"])
    metrics = [metric if metric in COUNTS else f"{metric} x 100" for metric in task.metrics]
    chosen = ["chosen on dev"] if has_choices else []
    return Table(["system", metrics[0], "95 % interval", "dev", *chosen, *metrics[1:], "n"], lines, rival)


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
        text = f"{item.system}: {item.total} of {item.n} test texts were taken for another class; the surest of them."
        text += " Lead: best score minus the second best; deficit: the true class's score minus the best."
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
            "Each test set, with 95 % intervals: the tuned system, the best untuned one, the tuned reading untuned.",
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
    table = Table(header, rows, report.best_untuned, f"Every system ({len(rows)} rows)")
    return Section("Aggregation over sub-sets", [text], [table])


OVERLAP_HEADER = ("training side", "evaluation", "texts", "exact", "normalised", "near", "pairs")
OVERLAP_MORE = ("pairs with both texts", "clean pairs")


def _overlap(report: Report) -> list[Section]:
    if not report.overlap:
        return []
    counts = [[str(value) for value in asdict(row).values()] for row in report.overlap]
    blocks = [Table([*OVERLAP_HEADER, *OVERLAP_MORE], counts)]
    clean = _clean_rows(report)
    if clean:
        blocks.append(Table(["system", "pairs used", *report.columns, "95 % interval"], clean))
    return [Section("Overlap of training and evaluation texts", [f"Distinct texts; {RULE}."], blocks)]


def _clean_rows(report: Report) -> list[list[str]]:
    """Full and clean scores below each other, then the difference of the headline, then how many pairs there are."""
    shown = [name for name in report.systems if report.has(name, AVERAGE, CLEAN)]
    if not shown:
        return []
    rows = []
    for name in shown:
        rows += [_scores(report, name, "spearman_all", "all"), _scores(report, name, CLEAN, "clean")]
    found = report.comparison
    if found is not None:
        name = f"{found.tuned} minus {found.untuned}"
        rows.append(_scores(report, name, "spearman_all_difference", "all"))
        rows.append(_scores(report, name, CLEAN_DIFFERENCE, "clean"))
    for metric, label in (("spearman_all", "all"), (CLEAN, "clean")):
        rows.append(["pairs", label, *(str(report.result(shown[0], task, metric).n) for task in report.columns), ""])
    return rows


def _scores(report: Report, name: str, metric: str, label: str) -> list[str]:
    average = report.result(name, AVERAGE, metric)
    figures = [hundred(report.result(name, task, metric).value) for task in report.columns]
    return [name, label, *figures, span(average.ci_low, average.ci_high)]


OTHERS = {
    f"{kind} {name}": f"{kind.lower()}_{name}"
    for name in SIMILARITIES
    for kind in ("Spearman", "Pearson")
    if (kind, name) != ("Spearman", "cosine")
}
"""Title -> metric, as in report.json."""


def similarity_section(report: Report) -> Section:
    """Spearman and Pearson of every similarity, of the systems for which they were measured."""
    shown = [name for name in report.systems if report.has(name, AVERAGE, "pearson_cosine")]
    rows = []
    for name in shown:
        whole = report.result(name, AVERAGE)
        others = [hundred(report.result(name, AVERAGE, metric).value) for metric in OTHERS.values()]
        rows.append([name, hundred(whole.value), span(whole.ci_low, whole.ci_high), *others])
    text = "x 100, average over the test sets; distances count as negative. Choices were made by Spearman of cosines."
    table = Table(["system", "Spearman cosine", "95 % interval", *OTHERS], rows, report.best_untuned)
    return Section("Other similarities", [text], [table] if rows else [])


def cost_section(report: Report) -> Section:
    """What went through a decoder in this evaluation."""
    rows = []
    for name, cost in report.costs.items():
        counts = (cost.texts, cost.tokens, cost.prefix_tokens, cost.spared_tokens)
        rows.append([name, *(f"{count:,}" for count in counts), f"{cost.seconds:.1f}"])
    text = "Of this evaluation alone: vectors that an earlier one left cost nothing. A prompt is read once for many"
    text += " texts, as far as it stands before them; spared is what reading it with each text would have added."
    header = ["encoder and prompt", "texts", "tokens read", "of them prompt, read once", "tokens spared", "seconds"]
    return Section("Cost", [text], [Table(header, rows)] if rows else [])
