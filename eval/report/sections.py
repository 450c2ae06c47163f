"""The page as data, top down: what report.md and report.html both show, in the same order and the same strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from eval.choice.sweep import Curve, by_dimension, by_layer, has_posts
from eval.leakage.overlap import RULE
from eval.report.blocks import Picture, Section, Table
from eval.report.details import cost_section, similarity_section
from eval.report.overview import HEADER, Duel, duels, overview_rows
from eval.report.report import Report, hundred, is_tuned, span, table_header, table_rows
from eval.results.clean import CLEAN, CLEAN_DIFFERENCE
from eval.results.diagnostics import Confusion, PrecisionRecall
from eval.results.results import AVERAGE
from eval.results.task_table import TaskTable
from eval.systems.seeds import is_spread

MAX_LABELS = 20
"""Labels up to which a confusion matrix is written out as a table."""
MAX_MISTAKES = 20
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


def _sweep(report: Report) -> list[Section]:
    """Dev scores behind the choices: by layer for each prompt, by dimension for each post-processing."""
    by_prompt, by_k = by_layer(report.sweep, raw=True), by_dimension(report.sweep)
    found = []
    if by_prompt:
        text = f"Spearman x 100 on {report.dev}, raw vectors; of each prompt the best pooling at every layer."
        pictures = [Picture("layers.png", "Dev score by layer, a line a prompt: raw vectors.")]
        if has_posts(report.sweep):
            pictures.append(Picture("layers-post.png", "The same with the best post-processing at every layer."))
        found.append(Section("Score by layer", [text], [*pictures, _curve_table("prompt", "layer", by_prompt)]))
    if by_k:
        text = (
            f"Spearman x 100 on {report.dev} by the dimensions that are kept; each line keeps the prompt, pooling"
            " and layer of its best point."
        )
        picture = Picture("dimensions.png", "Dev score by dimension, a line a method.")
        found.append(Section("Quality by dimension", [text], [picture, _curve_table("method", "k", by_k)]))
    return found


def _curve_table(line: str, axis: str, curves: dict[str, Curve]) -> Table:
    places = sorted({place for curve in curves.values() for place, _ in curve})
    rows = []
    for name, curve in curves.items():
        scores = dict(curve)
        rows.append([name, *(hundred(scores[place]) if place in scores else "–" for place in places)])
    return Table([line, *(f"{axis} {place}" for place in places)], rows, fold="The figures")


def _cosines(report: Report) -> list[Section]:
    if not report.histograms:
        return []
    rows = [
        [panel.title, hundred(float(panel.similar.mean())), hundred(float(panel.dissimilar.mean()))]
        for panel in report.histograms
    ]
    pictures = [
        Picture(f"cosines-{index}.png", f"Cosines of similar and dissimilar pairs {panel.title}.")
        for index, panel in enumerate(report.histograms)
    ]
    table = Table(["mean cosine x 100", "similar pairs", "dissimilar pairs"], rows, fold="The figures")
    return [Section("Cosines by gold similarity", [], [*pictures, table])]


PLANES = (("pca", "Principal components"), ("tsne", "t-SNE"))


def _scatter(report: Report) -> list[Section]:
    if not report.scatter:
        return []
    text = "The first two principal components, with their share of the variance; and t-SNE, whose distances between"
    text += " groups mean little."
    blocks: list[Table | Picture] = []
    for index, panel in enumerate(report.scatter):
        labels = [[str(place), label] for place, label in enumerate(panel.coloured, start=1)]
        pictures = [Picture(f"scatter-{index}-{plane}.png", f"{name}: {panel.title}.") for plane, name in PLANES]
        blocks += [*pictures, Table(["number", "label"], labels, fold=_fold("The labels", panel.coloured))]
    return [Section("Vectors by label", [text], blocks)]


def _fold(title: str, labels: Sequence[str]) -> str:
    """Open where a picture can't write the labels, as their numbers alone say nothing."""
    from eval.plots.style import is_drawable

    return title if all(map(is_drawable, labels)) else ""


def _confusion(item: Confusion, index: int) -> Section:
    text = [
        f"Accuracy x 100: {hundred(item.accuracy)}; n = {item.counts.sum()}. Rows: gold label; columns: given label."
    ]
    shade = "The darker, the larger the share of the gold label."
    numbered = [f"{place} {label}" for place, label in enumerate(item.labels, start=1)]
    whole = Table(
        ["gold", *numbered],
        [[label, *map(str, row)] for label, row in zip(numbered, item.counts.tolist(), strict=True)],
        fold=_fold("The counts", item.labels),
    )
    wrong = [[gold, given, str(count)] for gold, given, count in item.mistakes(MAX_MISTAKES)]
    blocks: list[Table | Picture] = [Picture(f"confusion-{index}.png", f"{item.title}. {shade}")]
    if len(item.labels) <= MAX_LABELS:
        blocks.append(whole)
    elif wrong:
        blocks.append(Table(["gold", "given", "count"], wrong, fold="The most frequent mistakes"))
    return Section(f"Confusion: {item.title}", text, blocks)


def _curves(report: Report) -> list[Section]:
    if not report.curves:
        return []
    rows = [_curve_row(item) for item in report.curves]
    header = ["curve", "average precision x 100", "threshold", "precision there", "recall there"]
    picture = Picture("precision-recall.png", "Precision by recall; the dot is the threshold chosen on dev.")
    return [Section("Precision and recall", [], [picture, Table(header, rows)])]


def _curve_row(item: PrecisionRecall) -> list[str]:
    precision, recall = item.at_threshold
    return [item.title, hundred(item.average_precision), f"{item.threshold:.4f}", hundred(precision), hundred(recall)]


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
