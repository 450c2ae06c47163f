"""Dev scores by layer and by dimension."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from eval.report.plots.style import GRID, canvas, colour, dash, legend_below, short
from eval.selection.dev_curves import Curve, CurvePoint, best_raw, by_dimension, by_layer, has_posts

MAX_LINES = 10
"""As many as there are colours: more lines than that can't be followed."""


def layers(points: Sequence[CurvePoint]) -> dict[str, Figure]:
    """A line a prompt: raw vectors, and in a second picture the best post-processing, if there is any.

    Both have the same scale, and a prompt has the same colour in both.
    """
    panels = {"layers.png": ("raw vectors", by_layer(points, raw=True))}
    if has_posts(points):
        panels["layers-post.png"] = ("best post-processing", by_layer(points, raw=False))
    names = list(panels["layers.png"][1])[:MAX_LINES]
    shown = [100 * score for _, curves in panels.values() for name in names for _, score in curves.get(name, [])]
    margin = 0.04 * (max(shown) - min(shown)) + 0.5
    figures = {}
    for file, (title, curves) in panels.items():
        figure, axes = canvas(3.2 + 0.19 * len(names))
        _lines(axes, {name: curves.get(name, []) for name in names})
        axes.set_title(title)
        axes.set_xlabel("layer (0: input embeddings)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(min(shown) - margin, max(shown) + margin)
        axes.set_ylabel("Spearman x 100 on dev")
        _legend(figure, axes, len(panels["layers.png"][1]) - len(names))
        figures[file] = figure
    return figures


def dimensions(points: Sequence[CurvePoint]) -> Figure:
    """A line a post-processing that cuts, over k; the best raw score as a level."""
    curves = by_dimension(points)
    names = list(curves)[:MAX_LINES]
    figure, axes = canvas(3.2 + 0.19 * len(names))
    _lines(axes, {name: curves[name] for name in names})
    raw = best_raw(points)
    if raw is not None:
        label = f"best raw: {raw.prompt}, {raw.pooling}, layer {raw.layer}"
        axes.axhline(100 * raw.dev_score, color="#555555", linestyle=":", label=short(label))
    widths = sorted({k for curve in curves.values() for k, _ in curve})
    axes.set_xscale("log", base=2)
    axes.set_xticks(_apart(widths), [str(k) for k in _apart(widths)])
    axes.minorticks_off()
    axes.set_xlabel("dimensions kept")
    axes.set_ylabel("Spearman x 100 on dev")
    _legend(figure, axes, len(curves) - len(names))
    return figure


def _apart(ticks: Sequence[int]) -> list[int]:
    """Of ticks on a log axis those that do not run into each other, from the largest down."""
    kept: list[int] = []
    for tick in reversed(ticks):
        if not kept or tick <= kept[-1] * (ticks[0] / ticks[-1]) ** 0.1:
            kept.append(tick)
    return kept


def _lines(axes: Axes, curves: dict[str, Curve]) -> None:
    for index, (name, curve) in enumerate(curves.items()):
        x, y = [value for value, _ in curve], [100 * score for _, score in curve]
        axes.plot(x, y, marker="o", markersize=3, color=colour(index), linestyle=dash(index), label=short(name))
    axes.grid(color=GRID)


def _legend(figure: Figure, axes: Axes, dropped: int) -> None:
    """In two columns where names are short."""
    title = f"best first; {dropped} lower ones not shown" if dropped else None
    longest = max(map(len, axes.get_legend_handles_labels()[1]), default=0)
    legend_below(figure, axes, columns=2 if longest <= 20 else 1, title=title)
