"""Scatter by label, confusion matrix, precision by recall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.diagnostics import Confusion, PrecisionRecall, Scatter
from eval.plots_style import GRID, colour, dash, drawable, numbered, short, tidy

MAX_TEXT = 20
"""Labels up to which the counts are written into the matrix, and every label beside it."""


def scatter(panel: Scatter) -> Figure:
    """Principal components and t-SNE side by side. More labels than colours: the rarer ones are grey."""
    shown = panel.coloured
    figure = Figure(figsize=(8.4, 4.6), layout="constrained")
    titles = (f"PCA, {100 * panel.share:.0f} % of the variance", "t-SNE")
    labels = np.array(panel.labels, dtype=object)
    for axes, title, plane in zip(figure.subplots(1, 2), titles, (panel.pca, panel.tsne), strict=True):
        rest = ~np.isin(labels, shown)
        if rest.any():
            axes.scatter(*plane[rest].T, s=7, color="#c9ccd0", linewidths=0, label="others")
        for index, (name, label) in enumerate(zip(shown, numbered(shown), strict=True)):
            rows = labels == name
            axes.scatter(*plane[rows].T, s=9, color=colour(index), alpha=0.75, linewidths=0, label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        tidy(axes)
    handles, names = figure.axes[0].get_legend_handles_labels()
    legend = figure.legend(
        handles, names, loc="outside lower center", fontsize=8, frameon=False, ncols=3, markerscale=2
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    figure.suptitle(drawable(panel.title, 90), fontsize=10, parse_math=False)
    return figure


def confusion(item: Confusion) -> Figure:
    """Shares of each gold label, so that rare labels show as much as frequent ones; counts written in."""
    totals = item.counts.sum(axis=1, keepdims=True)
    shares = np.divide(item.counts, totals, out=np.zeros(item.counts.shape), where=totals > 0)
    few = len(item.labels) <= MAX_TEXT
    side = 2.6 + 0.36 * len(item.labels) if few else 7.5
    figure = Figure(figsize=(min(8.4, side + 1.6), min(8.0, side)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the gold label", fontsize=8)
    if few:
        names = numbered(list(item.labels))
        axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
        axes.set_xticks(range(len(names)), [str(place) for place in range(1, len(names) + 1)], fontsize=8)
        _write(axes, item, shares)
    axes.set_xlabel("given label")
    axes.set_ylabel("gold label")
    axes.set_title(drawable(item.title, 70), fontsize=10, parse_math=False)
    return figure


def _write(axes: Axes, item: Confusion, shares: np.ndarray) -> None:
    for row, column in np.argwhere(item.counts > 0):
        shade = "white" if shares[row, column] > 0.5 else "#1d2126"
        axes.text(column, row, str(item.counts[row, column]), ha="center", va="center", fontsize=8, color=shade)


def precision_recall(curves: Sequence[PrecisionRecall]) -> Figure:
    """All curves in one picture; a dot where the threshold that dev chose lies."""
    figure = Figure(figsize=(8.4, 4.6 + 0.15 * len(curves)), layout="constrained")
    axes = figure.subplots()
    for index, item in enumerate(curves):
        label = f"{short(item.title)} (AP {100 * item.average_precision:.1f}, threshold {item.threshold:.3f})"
        x, y = 100 * item.recall, 100 * item.precision
        axes.step(x, y, where="post", label=label, color=colour(index), linestyle=dash(index))
        precision, recall = item.at_threshold
        axes.plot([100 * recall], [100 * precision], "o", color=colour(index), markeredgecolor="black", zorder=3)
    axes.set_xlim(0, 101)
    axes.set_ylim(0, 101)
    axes.set_xlabel("recall x 100")
    axes.set_ylabel("precision x 100")
    axes.grid(color=GRID)
    legend = figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=1)
    for text in legend.get_texts():
        text.set_parse_math(False)
    tidy(axes)
    return figure
