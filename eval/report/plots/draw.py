"""Pictures of a report as PNG bytes, drawn without a display. matplotlib's global settings are left as they were."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure

from eval.report.plots.dev_curves import dimensions, layers
from eval.report.plots.diagnostics import confusion, precision_recall, scatter
from eval.report.plots.style import DPI, FONT, GRID, canvas, legend_below, settings, short
from eval.report.report import Report
from eval.results.results import AVERAGE, Result
from eval.selection.dev_curves import by_dimension, by_layer
from eval.systems.subject import Subject

TUNED, PROCESSED, RAW, OUTSIDE = "#c2571a", "#3d6fa5", "#9db4c8", "#8a8a8a"
LEGEND = (
    (TUNED, "tuned"),
    (PROCESSED, "untuned, post-processed"),
    (RAW, "untuned, raw"),
    (OUTSIDE, "outside baseline"),
)
SIMILAR, DISSIMILAR = "#2f7d4f", "#8a8f98"
WHISKER = {"elinewidth": 1, "capsize": 2, "ecolor": "#333333"}
MAX_BARS = 14


def draw(report: Report) -> dict[str, bytes]:
    """File name -> PNG."""
    with settings():
        return {name: _png(figure) for name, figure in _figures(report).items()}


def _figures(report: Report) -> dict[str, Figure]:
    figures = {"averages.png": _averages(report), "tests.png": _tests(report)} if report.tests else {}
    figures |= {f"cosines-{index}.png": figure for index, figure in enumerate(_cosines(report))}
    if by_layer(report.dev_curves, raw=True):
        figures |= layers(report.dev_curves)
    if by_dimension(report.dev_curves):
        figures["dimensions.png"] = dimensions(report.dev_curves)
    for index, panel in enumerate(report.scatter):
        figures |= {f"scatter-{index}-{plane}.png": figure for plane, figure in scatter(panel).items()}
    figures |= {f"confusion-{index}.png": confusion(item) for index, item in enumerate(report.confusions)}
    if report.curves:
        figures["precision-recall.png"] = precision_recall(report.curves)
    return figures


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _colour(subject: Subject) -> str:
    if subject.is_tuned:
        return TUNED
    if subject.kind == "baseline":
        return OUTSIDE
    return RAW if subject.post is None else PROCESSED


def _whiskers(results: list[Result]) -> Float64[np.ndarray, "2 results"]:
    """Distances below and above the values, x 100."""
    values = np.array([[row.low, row.value, row.high] for row in results], dtype=np.float64)
    return np.asarray(100 * np.nan_to_num(np.maximum(0.0, np.diff(values, axis=1))).T)


def _shown(report: Report) -> list[str]:
    """The best ones, and of the others those that the page speaks of."""
    everyone = sorted(report.systems, key=lambda name: -np.nan_to_num(report.result(name, AVERAGE).value, nan=-2.0))
    wanted = {report.best_untuned, report.reference}
    wanted |= {*everyone[:MAX_BARS], *report.tuned_names}
    return [name for name in everyone if name in wanted]


def _averages(report: Report) -> Figure:
    """One bar a system, best first, with its interval; its name above it, where there is room for long ones."""
    shown = _shown(report)
    results = [report.result(name, AVERAGE) for name in shown]
    figure, axes = canvas(1.1 + 0.4 * len(shown))
    heights = np.arange(len(shown))
    values = [100 * np.nan_to_num(result.value) for result in results]
    colours = [_colour(report.subjects[name]) for name in shown]
    axes.barh(heights + 0.2, values, xerr=_whiskers(results), color=colours, height=0.42, error_kw=WHISKER)
    for height, name in zip(heights, shown, strict=True):
        axes.text(
            0.01, height - 0.22, short(name, 50), transform=axes.get_yaxis_transform(), va="center", fontsize=FONT
        )
    axes.set_yticks([])
    axes.set_ylim(len(shown) - 0.5, -0.55)
    axes.grid(axis="x", color=GRID)
    dropped = len(report.systems) - len(shown)
    axes.set_xlabel("Spearman x 100" + (f"; {dropped} lower rows not shown" if dropped else ""))
    for colour, label in LEGEND:
        if colour in colours:
            axes.barh([0], [0], color=colour, label=label)
    legend_below(figure, axes, columns=2)
    return figure


def _tests(report: Report) -> Figure:
    """On every test: the tuned system, the best untuned one, and the tuned encoder without its adapter."""
    found = report.comparison
    parties = [] if found is None or found.tuned is None else [found.tuned, found.untuned]
    names = [party.name for party in parties if party is not None] or report.highlights[:2]
    if report.reference is not None and report.reference not in names:
        names.append(report.reference)
    figure, axes = canvas(0.9 + (0.2 + 0.16 * len(names)) * len(report.columns) + 0.19 * len(names))
    width = 0.8 / len(names)
    colours = (TUNED, PROCESSED, RAW) if parties else (PROCESSED, RAW)
    for index, (name, colour) in enumerate(zip(names, colours, strict=False)):
        results = [report.result(name, task) for task in report.columns]
        axes.barh(
            np.arange(len(results)) + (index - (len(names) - 1) / 2) * width,
            [100 * np.nan_to_num(result.value) for result in results],
            width * 0.94,
            xerr=_whiskers(results),
            label=short(name),
            color=colour,
            error_kw=WHISKER,
        )
    axes.set_yticks(range(len(report.columns)), [short(column, 20) for column in report.columns])
    axes.invert_yaxis()
    axes.set_xlabel("Spearman x 100")
    axes.grid(axis="x", color=GRID)
    legend_below(figure, axes)
    return figure


def _cosines(report: Report) -> list[Figure]:
    """Similar and dissimilar pairs: how far the two heaps stand apart before and after tuning, on the same scale."""
    panels = report.histograms
    if not panels:
        return []
    low = min(float(min(panel.similar.min(), panel.dissimilar.min())) for panel in panels)
    bins = np.linspace(max(-1.0, low - 0.02), 1.0, 50)
    figures, highest = [], 0.0
    for panel in panels:
        figure, axes = canvas(3.3)
        for values, colour, label in (
            (panel.dissimilar, DISSIMILAR, "dissimilar pairs"),
            (panel.similar, SIMILAR, "similar pairs"),
        ):
            text = f"{label} ({len(values)}), mean {values.mean():.2f}"
            weights = np.full(len(values), 1 / len(values))
            heights, _, _ = axes.hist(values, bins=bins.tolist(), weights=weights, color=colour, alpha=0.65, label=text)
            highest = max(highest, float(np.max(heights)))
        axes.set_title(short(panel.moment))
        axes.set_xlabel("cosine")
        axes.set_ylabel("share of pairs")
        legend_below(figure, axes)
        figures.append(figure)
    for figure in figures:
        figure.axes[0].set_ylim(0, 1.05 * highest)
    return figures
