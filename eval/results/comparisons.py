"""How many systems a comparison was picked from, and what that does to its p-value: the sentences that a report shows.

A pair that dev data chose is one comparison, however many rows the table has: the tests had no say in the choice. Rows
that are picked because of their test figures are many comparisons, and their p-values count for less (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def chosen_of(untuned: int, chosen_on: str | None) -> str:
    """After the p-value of a headline: from how many untuned rows its rival comes, and who chose it.

    `chosen_on` is the name of the dev data, None where no data chose.
    """
    if untuned == 1:
        return "One comparison: only one untuned row was measured."
    if chosen_on is None:
        return f"The p-value is not corrected for {untuned:,} comparisons: no dev data chose among the untuned rows."
    return (
        f"One comparison, chosen on {chosen_on} among {untuned:,} untuned rows, so its p-value needs no correction; a "
        f"difference from any other row would be one of {untuned:,} and is not corrected for that."
    )


def highest_of(untuned: int) -> str:
    """What the untuned row that is highest on the tests is: "the highest of 61 untuned rows, picked on the tests"."""
    if untuned == 1:
        return "the only untuned row"
    return f"the highest of {untuned:,} untuned rows, picked on the tests themselves, so its figure flatters it"


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
