"""What all pictures share: a size that a telephone shows whole, colours that the colour-blind can tell apart, text the
fonts can draw.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INCHES, DPI = 4.4, 200
"""Width of every picture: 400 pixels of screen show it with letters of 11 pixels, a wide page shows two in a row."""
FONT = 9.5
"""Points of every text but titles, which are larger."""
CYCLE = ("#c2571a", "#3d6fa5", "#2f7d4f", "#8c5aa8", "#b3a13a", "#4fa8a8", "#d37aa0", "#7a5c3e", "#5b6770", "#9dbd5a")
GRID = "#e3e3e3"
DASHES = ("-", "--", ":", "-.")
LINE = 46
"""Characters of a legend's line."""
OTHER_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Droid Sans Fallback", "PingFang SC", "Heiti TC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei",
)  # fmt: skip
"""Fonts with Chinese characters: those that are installed stand in for what matplotlib's own font lacks."""


def settings() -> AbstractContextManager[None]:
    """matplotlib's settings for as long as pictures are made; `$` in a prompt is a dollar, not mathematics."""
    from matplotlib import rc_context

    return rc_context(
        {
            "font.family": ["DejaVu Sans", *_others()],
            "font.size": FONT,
            "axes.titlesize": 10.5,
            "axes.labelsize": FONT,
            "xtick.labelsize": FONT,
            "ytick.labelsize": FONT,
            "legend.fontsize": FONT,
            "legend.title_fontsize": FONT,
            "legend.frameon": False,
            "text.parse_math": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
        }
    )


def canvas(height: float) -> tuple[Figure, Axes]:
    """A picture `height` inches high, with one plot in it."""
    figure = Figure(figsize=(INCHES, height), layout="constrained")
    return figure, figure.subplots()


def legend_below(figure: Figure, axes: Axes, *, columns: int = 1, title: str | None = None, scale: float = 1.0) -> None:
    """Under the plot, so that it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title, markerscale=scale)


def colour(index: int) -> str:
    return CYCLE[index % len(CYCLE)]


def dash(index: int) -> str:
    """Another dash once the colours have been round."""
    return DASHES[index // len(CYCLE) % len(DASHES)]


def short(name: str, limit: int = LINE) -> str:
    """The middle cut out; characters that the fonts lack as boxes."""
    head = (limit - 1) // 2
    return drawable(name if len(name) <= limit else name[:head] + "…" + name[head + 1 - limit :])


def drawable(text: str) -> str:
    """`text` as far as the fonts have its characters; a box for each other one, instead of a warning for each."""
    return "".join(letter if ord(letter) in _glyphs() else "\N{WHITE SQUARE}" for letter in " ".join(text.split()))


def is_drawable(text: str) -> bool:
    """Whether no character of it would be a box."""
    return all(ord(letter) in _glyphs() for letter in " ".join(text.split()))


def numbered(labels: list[str], limit: int = 16) -> list[str]:
    """`3 label`; the number alone where the fonts lack a character: the page's own text says what it stands for."""
    return [
        f"{number} {short(label, limit)}" if is_drawable(label) else f"{number}"
        for number, label in enumerate(labels, 1)
    ]


@cache
def _others() -> tuple[str, ...]:
    """Those of `OTHER_FONTS` that are installed."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return tuple(name for name in OTHER_FONTS if name in installed)


@cache
def _glyphs() -> frozenset[int]:
    """Code points of the fonts that `settings` asks for; matplotlib always brings the first."""
    from matplotlib.font_manager import findfont, get_font

    fonts = [get_font(findfont(name)) for name in ("DejaVu Sans", *_others())]
    return frozenset(point for font in fonts for point in font.get_charmap())
