"""Whether a choice lies at the edge of what was tried."""

from __future__ import annotations

from collections.abc import Sequence


def edge(
    what: str,
    chosen: int | float,
    tried: Sequence[int | float],
    *,
    low: int | float | None = None,
    high: int | float | None = None,
) -> str | None:
    """In words, such as "k = 32 is the smallest that was tried"; None inside the grid and at its natural ends.

    One value alone is no search.
    """
    smallest, largest = min(tried), max(tried)
    if smallest == largest:
        return None
    if chosen == smallest and (low is None or chosen > low):
        return f"{what} = {chosen:g} is the smallest that was tried"
    if chosen == largest and (high is None or chosen < high):
        return f"{what} = {chosen:g} is the largest that was tried"
    return None
