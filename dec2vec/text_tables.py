"""Tables made of text: aligned columns for a terminal, and Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

Row = Sequence[str]


def plain_table(rows: Sequence[Row], *, left: Collection[int] = (0,), width: int | None = None) -> list[str]:
    """Lines of a table whose columns are two spaces apart.

    The columns `left` are aligned to the left, the others to the right. With a `width` the last column is wrapped so
    that no line is longer; what is wrapped stays in its column.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines: list[str] = []
    for row in rows:
        cells = [
            cell.ljust(size) if column in left else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        lines += ["  ".join(cells).rstrip()] if width is None else _wrapped(cells, width)
    return lines


def markdown_table(header: Row, rows: Sequence[Row], *, left: Collection[int] = (0,)) -> list[str]:
    """Lines of a Markdown table. The columns `left` are aligned to the left, the others to the right."""
    edges = "".join("|---" if column in left else "|---:" for column in range(len(header)))
    first, *lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (header, *rows)]
    return [first, f"{edges}|", *lines]


def _wrapped(cells: Row, width: int) -> list[str]:
    start = "".join(f"{cell}  " for cell in cells[:-1])
    lines = textwrap.wrap(
        cells[-1], width, initial_indent=start, subsequent_indent=" " * len(start), break_long_words=False
    )
    return lines or [start.rstrip()]
