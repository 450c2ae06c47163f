"""A choice at the edge of what was searched: a better one may lie beyond, and the report says so."""

from __future__ import annotations

from collections.abc import Sequence

from eval.postprocess.families import SIZED

NARROWEST = 2
"""Vectors of one dimension have no cosine but 1 and -1."""


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


def dimension_edge(post: str, k: int, tried: Sequence[int], width: int) -> str | None:
    """Of a post-processing (`whiten-64`) that comes in several k."""
    if post.partition("-")[0] not in SIZED:
        return None
    found = edge("k", k, tried, low=NARROWEST, high=width)
    return None if found is None else f"{found} (systems.dimensions)"
