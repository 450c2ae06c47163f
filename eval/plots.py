"""Pictures of a report as PNG bytes, drawn without a display and without matplotlib's global state."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.figure import Figure

from eval.plots_diagnostics import confusion, precision_recall, scatter
from eval.plots_style import drawable, short, tidy
from eval.plots_sweep import dimensions, layers
from eval.report import Report, is_baseline, is_tuned
from eval.results import AVERAGE, Result
from eval.sweep import by_dimension, by_layer

TUNED, PROCESSED, RAW, OUTSIDE = "#c2571a", "#3d6fa5", "#9db4c8", "#8a8a8a"
LEGEND = (
    (TUNED, "tuned"),
    (PROCESSED, "untuned, post-processed"),
    (RAW, "untuned, raw"),
    (OUTSIDE, "outside baseline"),
)
SIMILAR, DISSIMILAR = "#2f7d4f", "#8a8f98"
WHISKER = {"elinewidth": 1, "capsize": 2, "ecolor": "#333333"}
MAX_BARS = 30


def draw(report: Report) -> dict[str, bytes]:
    """File name -> PNG."""
    figures = {"averages.png": _averages(report), "tests.png": _tests(report)} if report.tests else {}
    if report.histograms:
        figures["cosines.png"] = _cosines(report)
    if by_layer(report.sweep, raw=True):
        figures["layers.png"] = layers(report.sweep)
    if by_dimension(report.sweep):
        figures["dimensions.png"] = dimensions(report.sweep)
    figures |= {f"scatter-{index}.png": scatter(panel) for index, panel in enumerate(report.scatter)}
    figures |= {f"confusion-{index}.png": confusion(item) for index, item in enumerate(report.confusions)}
    if report.curves:
        figures["precision-recall.png"] = precision_recall(report.curves)
    return {name: _png(figure) for name, figure in figures.items()}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


def _colour(system: str) -> str:
    if is_tuned(system):
        return TUNED
    if is_baseline(system):
        return OUTSIDE
    reading = system.rpartition("/")[2].replace("+norm", "")
    return PROCESSED if "+" in reading else RAW


def _whiskers(results: list[Result]) -> np.ndarray:
    """Distances (2, n) below and above the values, x 100."""
    below = [max(0.0, result.value - result.ci_low) for result in results]
    above = [max(0.0, result.ci_high - result.value) for result in results]
    return np.asarray(100 * np.nan_to_num(np.array([below, above])))


def _averages(report: Report) -> Figure:
    """One bar a system, best first, with its interval."""
    everyone = sorted(report.systems, key=lambda name: -np.nan_to_num(report.result(name, AVERAGE).value, nan=-2.0))
    shown = [name for index, name in enumerate(everyone) if index < MAX_BARS or is_tuned(name)]
    results = [report.result(name, AVERAGE) for name in shown]
    figure = Figure(figsize=(8.4, 1.4 + 0.25 * len(shown)), layout="constrained")
    axes = figure.subplots()
    values = [100 * np.nan_to_num(result.value) for result in results]
    axes.barh(
        range(len(shown)),
        values,
        xerr=_whiskers(results),
        color=[_colour(name) for name in shown],
        height=0.72,
        error_kw=WHISKER,
    )
    axes.set_yticks(range(len(shown)), [short(name, 46) for name in shown], fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.grid(axis="x", color="#e3e3e3")
    dropped = len(everyone) - len(shown)
    where = "average of the test sets" if len(report.tests) > 1 else report.tests[0]
    title = f"Spearman x 100, {where}, with 95 % intervals"
    axes.set_title(title + (f" (best {len(shown)}; {dropped} lower rows not shown)" if dropped else ""), fontsize=10)
    for colour, label in LEGEND:
        if colour in map(_colour, shown):
            axes.barh([0], [0], color=colour, label=label)
    axes.legend(loc="lower right", fontsize=8, frameon=True)
    tidy(axes)
    return figure


def _tests(report: Report) -> Figure:
    """On every test: the tuned system, the best untuned one, and the tuned encoder without its adapter."""
    found = report.comparison
    names = [found.tuned, found.untuned] if found else report.highlights[:2]
    if report.reference is not None and report.reference not in names:
        names.append(report.reference)
    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(names)
    colours = (TUNED, PROCESSED, RAW) if found else (PROCESSED, RAW)
    for index, (name, colour) in enumerate(zip(names, colours, strict=False)):
        results = [report.result(name, task) for task in report.columns]
        axes.bar(
            np.arange(len(results)) + (index - (len(names) - 1) / 2) * width,
            [100 * np.nan_to_num(result.value) for result in results],
            width * 0.94,
            yerr=_whiskers(results),
            label=short(name),
            color=colour,
            error_kw=WHISKER,
        )
    axes.set_xticks(range(len(report.columns)), report.columns)
    axes.set_ylabel("Spearman x 100")
    axes.grid(axis="y", color="#e3e3e3")
    legend = figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=1)
    for text in legend.get_texts():
        text.set_parse_math(False)
    tidy(axes)
    return figure


def _cosines(report: Report) -> Figure:
    """Similar and dissimilar pairs: how far the two heaps stand apart before and after tuning."""
    panels = report.histograms
    figure = Figure(figsize=(8.4, 3.4 if len(panels) > 1 else 3.8), layout="constrained")
    low = min(float(min(panel.similar.min(), panel.dissimilar.min())) for panel in panels)
    bins = np.linspace(max(-1.0, low - 0.02), 1.0, 60)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for values, colour, label in (
            (panel.dissimilar, DISSIMILAR, "dissimilar pairs"),
            (panel.similar, SIMILAR, "similar pairs"),
        ):
            text = f"{label} ({len(values)}), mean {values.mean():.2f}"
            weights = np.full(len(values), 1 / len(values))
            axes.hist(values, bins=bins, weights=weights, color=colour, alpha=0.65, label=text)
        axes.set_title(drawable(panel.title, 42), fontsize=9, parse_math=False)
        axes.set_xlabel("cosine")
        axes.set_ylabel("share of pairs")
        axes.legend(fontsize=8, frameon=False)
        tidy(axes)
    return figure
