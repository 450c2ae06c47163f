"""Sections of the report that hold pictures."""

from __future__ import annotations

from collections.abc import Sequence

from eval.report.blocks import Picture, Section, Table
from eval.report.numbers import hundred
from eval.report.report import Report
from eval.results.diagnostics import Confusion, PrecisionRecall
from eval.selection.dev_curves import Curve, by_dimension, by_layer, has_posts

MAX_LABELS = 20
"""Labels up to which a confusion matrix is written out as a table."""
MAX_MISTAKES = 20


def dev_sections(report: Report) -> list[Section]:
    """Dev scores behind the choices: by layer for each prompt, by dimension for each post-processing."""
    by_prompt, by_k = by_layer(report.dev_curves, raw=True), by_dimension(report.dev_curves)
    found = []
    if by_prompt:
        text = f"Spearman x 100 on {report.dev}, raw vectors, with the best pooling of each prompt at every layer."
        pictures = [Picture("layers.png", "Dev score by layer, one line per prompt: raw vectors.")]
        if has_posts(report.dev_curves):
            pictures.append(Picture("layers-post.png", "The same with the best post-processing at every layer."))
        found.append(Section("Score by layer", [text], [*pictures, _curve_table("prompt", "layer", by_prompt)]))
    if by_k:
        text = (
            f"Spearman x 100 on {report.dev} by number of dimensions; each line uses the prompt, pooling and layer of "
            "its best point."
        )
        picture = Picture("dimensions.png", "Dev score by dimension, one line per method.")
        found.append(Section("Quality by dimension", [text], [picture, _curve_table("method", "k", by_k)]))
    return found


def _curve_table(line: str, axis: str, curves: dict[str, Curve]) -> Table:
    columns = sorted({x for curve in curves.values() for x, _ in curve})
    rows = []
    for name, curve in curves.items():
        scores = dict(curve)
        rows.append([name, *(hundred(scores[x]) if x in scores else "–" for x in columns)])
    return Table([line, *(f"{axis} {x}" for x in columns)], rows, fold="The figures")


def cosine_sections(report: Report) -> list[Section]:
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


def scatter_sections(report: Report) -> list[Section]:
    if not report.scatter:
        return []
    text = "The first two principal components, with their share of the variance; and t-SNE, whose distances between"
    text += " groups mean little."
    blocks: list[Table | Picture] = []
    for index, panel in enumerate(report.scatter):
        labels = [[str(number), label] for number, label in enumerate(panel.coloured, start=1)]
        pictures = [Picture(f"scatter-{index}-{plane}.png", f"{name}: {panel.title}.") for plane, name in PLANES]
        blocks += [*pictures, Table(["number", "label"], labels, fold=_fold("The labels", panel.coloured))]
    return [Section("Vectors by label", [text], blocks)]


def _fold(title: str, labels: Sequence[str]) -> str:
    """Open where a picture can't write the labels, as their numbers alone say nothing."""
    from eval.report.plots.style import is_drawable

    return title if all(map(is_drawable, labels)) else ""


def confusion_section(item: Confusion, index: int) -> Section:
    text = [
        f"Accuracy x 100: {hundred(item.accuracy)}; n = {item.counts.sum()}. Rows: gold label; columns: given label."
    ]
    shade = "Darker cells are a larger fraction of the gold label."
    numbered = [f"{number} {label}" for number, label in enumerate(item.labels, start=1)]
    matrix = Table(
        ["gold", *numbered],
        [[label, *map(str, row)] for label, row in zip(numbered, item.counts.tolist(), strict=True)],
        fold=_fold("The counts", item.labels),
    )
    wrong = [[gold, given, str(count)] for gold, given, count in item.mistakes(MAX_MISTAKES)]
    blocks: list[Table | Picture] = [Picture(f"confusion-{index}.png", f"{item.title}. {shade}")]
    if len(item.labels) <= MAX_LABELS:
        blocks.append(matrix)
    elif wrong:
        blocks.append(Table(["gold", "given", "count"], wrong, fold="The most frequent mistakes"))
    return Section(f"Confusion: {item.title}", text, blocks)


def curve_sections(report: Report) -> list[Section]:
    if not report.curves:
        return []
    rows = [_curve_row(item) for item in report.curves]
    header = ["curve", "average precision x 100", "threshold", "precision there", "recall there"]
    picture = Picture("precision-recall.png", "Precision by recall; the dot is the threshold selected on dev.")
    return [Section("Precision and recall", [], [picture, Table(header, rows)])]


def _curve_row(item: PrecisionRecall) -> list[str]:
    precision, recall = item.at_threshold
    return [item.title, hundred(item.average_precision), f"{item.threshold:.4f}", hundred(precision), hundred(recall)]
