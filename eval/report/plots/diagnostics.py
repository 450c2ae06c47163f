"""Scatter by label, confusion matrix, precision by recall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.report.plots.style import FONT, GRID, canvas, colour, dash, legend_below, numbered, short
from eval.results.diagnostics import Confusion, PrecisionRecall, Scatter

MAX_NAMES = 20
"""Labels up to which each has its number next to the matrix."""
MAX_COUNTS = 10
"""Labels up to which names and counts can be read in it."""


def scatter(panel: Scatter) -> dict[str, Figure]:
    """Principal components and t-SNE. More labels than colours: the rarer ones are grey."""
    return {
        "pca": _plane(panel, panel.pca, f"PCA, {100 * panel.share:.0f} % of the variance"),
        "tsne": _plane(panel, panel.tsne, "t-SNE"),
    }


def _plane(panel: Scatter, plane: Float64[np.ndarray, "points 2"], title: str) -> Figure:
    shown = panel.coloured
    labels = np.array(panel.labels, dtype=object)
    figure, axes = canvas(3.5 + 0.1 * len(shown))
    rest = ~np.isin(labels, shown)
    for index, (name, label) in enumerate(zip(shown, numbered(shown, 18), strict=True)):
        rows = labels == name
        axes.scatter(plane[rows, 0], plane[rows, 1], s=9, color=colour(index), alpha=0.75, linewidths=0, label=label)
    if rest.any():
        axes.scatter(plane[rest, 0], plane[rest, 1], s=7, color="#c9ccd0", linewidths=0, label="others", zorder=0)
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    legend_below(figure, axes, columns=2, scale=2.0)
    return figure


def confusion(item: Confusion) -> Figure:
    """Shares of each gold label, so that rare labels show as much as frequent ones; counts written in."""
    totals = item.counts.sum(axis=1, keepdims=True)
    shares = np.divide(item.counts, totals, out=np.zeros(item.counts.shape), where=totals > 0)
    count = len(item.labels)
    figure, axes = canvas(min(4.4, 1.6 + 0.4 * count))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.spines[["top", "right"]].set_visible(True)
    numbers = [str(number) for number in range(1, count + 1)]
    names = numbered(list(item.labels), 18) if count <= MAX_COUNTS else numbers
    axes.set_xticks(range(count) if count <= MAX_NAMES else [], numbers if count <= MAX_NAMES else None)
    axes.set_yticks(range(count) if count <= MAX_NAMES else [], names if count <= MAX_NAMES else None)
    if count <= MAX_COUNTS:
        _write(axes, item, shares)
    axes.set_xlabel("given label")
    axes.set_ylabel("gold label")
    return figure


def _write(axes: Axes, item: Confusion, shares: Float64[np.ndarray, "gold given"]) -> None:
    for row, column in np.argwhere(item.counts > 0):
        shade = "white" if shares[row, column] > 0.5 else "#1d2126"
        axes.text(column, row, str(item.counts[row, column]), ha="center", va="center", fontsize=FONT, color=shade)


def precision_recall(curves: Sequence[PrecisionRecall]) -> Figure:
    """All curves in one picture; a dot where the threshold that dev chose lies."""
    figure, axes = canvas(3.3 + 0.19 * len(curves))
    for index, item in enumerate(curves):
        x, y = 100 * item.recall, 100 * item.precision
        axes.step(x, y, where="post", label=short(item.title), color=colour(index), linestyle=dash(index))
        precision, recall = item.at_threshold
        axes.plot([100 * recall], [100 * precision], "o", color=colour(index), markeredgecolor="black", zorder=3)
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    axes.set_xlabel("recall x 100")
    axes.set_ylabel("precision x 100")
    axes.grid(color=GRID)
    legend_below(figure, axes)
    return figure
