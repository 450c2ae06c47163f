"""Figures as they are published: x 100, with two decimals, and a dash where there is none."""

from __future__ import annotations

import math


def hundred(value: float) -> str:
    """A share or a correlation x 100."""
    return f"{100 * value:.2f}" if math.isfinite(value) else "–"


def signed(value: float) -> str:
    """A difference x 100 with its sign."""
    return f"{100 * value:+.2f}" if math.isfinite(value) else "–"


def span(low: float | None, high: float | None, no_interval: str = "", conservative: str = "") -> str:
    """An interval x 100, or why there is none; with the reason why it is wider than it had to be."""
    if no_interval:
        return f"no interval: {no_interval}"
    return "–" if low is None or high is None else f"{hundred(low)} to {hundred(high)}{_wide(conservative)}"


def signed_span(low: float | None, high: float | None, no_interval: str = "", conservative: str = "") -> str:
    """The same of a difference."""
    if no_interval:
        return f"no interval: {no_interval}"
    return "–" if low is None or high is None else f"{signed(low)} to {signed(high)}{_wide(conservative)}"


def _wide(conservative: str) -> str:
    return f" (conservative: {conservative})" if conservative else ""
