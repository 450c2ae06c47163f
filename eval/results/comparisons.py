"""How many systems a comparison was picked from, and what that does to its p-value: the sentences that a report shows.

A pair that dev data chose is one comparison, however many rows the table has: the tests had no say in the choice. Rows
that are picked because of their test figures are many comparisons, and their p-values count for less (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def selected_from(rows: int, selected_on: str | None) -> str:
    """After the p-value of a rival that was selected from `rows`; `selected_on` is None where no dev data did it."""
    if rows == 1:
        return ""
    if selected_on is None:
        return f"This p-value is not corrected for the {rows:,} rows from which its rival comes."
    return f"{selected_on} selected its rival from {rows:,} rows, so this is one comparison, and p needs no correction."


def not_corrected(comparisons: int) -> str:
    """Beside several p-values that nothing corrects; empty for a single one."""
    return "" if comparisons < 2 else f"The p-values are not corrected for {comparisons:,} comparisons."


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected for their number, whatever their dependence: below 0.05 all hold at once with 95 % confidence.

    nan stays nan, and counts as a comparison: it was tried.
    """
    raw = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(raw, kind="stable")  # nan comes last
    factors = np.arange(len(raw), 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(raw[order] * factors))
    corrected = np.empty_like(raw)
    corrected[order] = stepped
    return [float(value) for value in corrected]
