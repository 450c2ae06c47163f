"""Dev scores by layer and by dimension."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.plots_style import GRID, colour, dash, short, tidy
from eval.sweep import RAW, Curve, SweepPoint, best_raw, by_dimension, by_layer

MAX_LINES = 12


def layers(points: Sequence[SweepPoint]) -> Figure:
    """A line a prompt: raw vectors, and beside them the best post-processing if there is any."""
    panels = {"raw vectors": by_layer(points, raw=True)}
    if any(point.post != RAW for point in points):
        panels["best post-processing"] = by_layer(points, raw=False)
    names = list(panels["raw vectors"])[:MAX_LINES]
    figure = Figure(figsize=(8.4, 4.2 + 0.1 * len(names)), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        _lines(axes, {name: curves[name] for name in names if name in curves})
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("layer (0: input embeddings)")
        axes.xaxis.get_major_locator().set_params(integer=True)
    grid[0].set_ylabel("Spearman x 100 on dev")
    _legend(figure, grid[0], len(panels["raw vectors"]) - len(names))
    return figure


def dimensions(points: Sequence[SweepPoint]) -> Figure:
    """A line a post-processing that cuts, over k; the best raw score as a level."""
    curves = by_dimension(points)
    names = list(curves)[:MAX_LINES]
    figure = Figure(figsize=(8.4, 4.2 + 0.15 * len(names)), layout="constrained")
    axes = figure.subplots()
    _lines(axes, {name: curves[name] for name in names})
    raw = best_raw(points)
    if raw is not None:
        label = f"best raw: {raw.prompt}, {raw.pooling}, layer {raw.layer}"
        axes.axhline(100 * raw.dev_score, color="#555555", linestyle=":", label=short(label))
    places = sorted({k for curve in curves.values() for k, _ in curve})
    axes.set_xscale("log", base=2)
    axes.set_xticks(_apart(places), [str(k) for k in _apart(places)])
    axes.minorticks_off()
    axes.set_xlabel("dimensions kept")
    axes.set_ylabel("Spearman x 100 on dev")
    _legend(figure, axes, len(curves) - len(names))
    return figure


def _apart(places: Sequence[int]) -> list[int]:
    """Of ticks on a log axis those that do not run into each other, from the largest down."""
    kept: list[int] = []
    for place in reversed(places):
        if not kept or place <= kept[-1] * 0.88:
            kept.append(place)
    return kept


def _lines(axes: Axes, curves: dict[str, Curve]) -> None:
    for index, (name, curve) in enumerate(curves.items()):
        x, y = [place for place, _ in curve], [100 * score for _, score in curve]
        axes.plot(x, y, marker="o", markersize=3, color=colour(index), linestyle=dash(index), label=short(name))
    axes.grid(color=GRID)
    tidy(axes)


def _legend(figure: Figure, axes: Axes, dropped: int) -> None:
    """Below the picture, so that it covers no line."""
    handles, labels = axes.get_legend_handles_labels()
    title = f"best first; {dropped} lower ones not shown" if dropped else None
    columns = 2 if max(map(len, labels), default=0) < 40 else 1
    legend = figure.legend(
        handles, labels, loc="outside lower center", fontsize=8, frameon=False, ncols=columns, title=title
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
