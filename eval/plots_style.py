"""What all pictures share: colours that the colour-blind can tell apart, bare axes, text the font can draw."""

from __future__ import annotations

from functools import cache

from matplotlib.axes import Axes

CYCLE = ("#c2571a", "#3d6fa5", "#2f7d4f", "#8c5aa8", "#b3a13a", "#4fa8a8", "#d37aa0", "#7a5c3e", "#5b6770", "#9dbd5a")
GRID = "#e3e3e3"
DASHES = ("-", "--", ":", "-.")


def colour(index: int) -> str:
    return CYCLE[index % len(CYCLE)]


def dash(index: int) -> str:
    """Another dash once the colours have been round."""
    return DASHES[index // len(CYCLE) % len(DASHES)]


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def short(name: str, limit: int = 60) -> str:
    """The middle cut out; characters that the font lacks as boxes."""
    cut = name if len(name) <= limit else name[: limit - 20] + "…" + name[-19:]
    return drawable(cut)


def drawable(text: str, limit: int | None = None) -> str:
    """`text` as far as the font has its characters; a box for each other one, instead of a warning for each.

    A `limit` breaks it into lines of as many characters.
    """
    glyphs = _glyphs()
    boxed = "".join(letter if ord(letter) in glyphs else "\N{WHITE SQUARE}" for letter in " ".join(text.split()))
    if limit is None:
        return boxed
    return "\n".join(boxed[start : start + limit] for start in range(0, len(boxed), limit))


def numbered(labels: list[str]) -> list[str]:
    """`3 label`: the number finds a label again where the font can't draw it."""
    return [f"{place} {drawable(label)[:28]}" for place, label in enumerate(labels, start=1)]


@cache
def _glyphs() -> frozenset[int]:
    """Code points of matplotlib's own font, which it always brings."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())
