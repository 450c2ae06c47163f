"""From bootstrap values to a 95 % interval and a p-value that agree: one is below 0.05 where the other leaves out 0.

Percentiles are expanded (Hesterberg 2015): of few units they are too narrow by the factor by which Student's t is wider
than the normal distribution. `docs/coverage.md` has what was simulated, `scripts/checks/coverage` measures it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float64
from scipy.special import expit, logit
from scipy.stats import norm, t

LEVEL = 0.05
"""Of p-values that count; 1 minus the confidence of an interval."""
MANY = 1_000_000
"""Units beyond which nothing is expanded."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def interval(value: float, resampled: Float64[np.ndarray, " resamples"], size: int = MANY) -> Interval:
    """Of a figure of `size` units, by expanded percentiles; nan in, nan out.

    The bounds are bootstrap values themselves: the last ones of which `p_value` says that 0 would be beyond them.
    """
    if np.isnan(resampled).any():
        return Interval(value, float("nan"), float("nan"))
    ordered = np.sort(resampled)
    beyond = max(int(np.ceil(tail(size) * (len(ordered) + 1))) - 2, 0)
    return Interval(value, float(ordered[beyond]), float(ordered[-1 - beyond]))


def p_value(differences: Float64[np.ndarray, " resamples"], size: int = MANY) -> float:
    """Two-sided, of a paired difference being 0: the level at which the interval just reaches 0.

    Davison and Hinkley 1997, section 4.2: the resample itself counts too, so that no p is smaller than
    2 / (resamples + 1). nan in, nan out.
    """
    if np.isnan(differences).any():
        return float("nan")
    rarer = min(np.sum(differences <= 0), np.sum(differences >= 0))
    share = min(0.5, (rarer + 1) / (len(differences) + 1))
    return float(share * 2) if size >= MANY else float(2 * t.cdf(norm.ppf(share) / _widening(size), size - 1))


@cache
def tail(size: int) -> float:
    """Share of the bootstrap values that lies beyond each bound: 2.5 %, and less of few units."""
    return LEVEL / 2 if size >= MANY else float(norm.cdf(t.ppf(LEVEL / 2, size - 1) * _widening(size)))


def share_interval(value: float, deviation: float, size: int, bias: float = 0.0, *, is_count: bool = False) -> Interval:
    """Wilson's interval of a figure between 0 and 1 with a bootstrapped standard deviation.

    A proportion of `size` yes or no has v (1 - v) / deviation² = size, and this is Wilson's interval of it. Any other
    figure is taken for a proportion of as many units as would give it that deviation; where all resamples are equal,
    as of a proportion of 1, of `size`. It is put about the figure without its bias. Where the figure `is_count`, of yes
    and no alone, its deviation is known by its value, and the quantile is the normal one; else Student's.
    """
    middle = min(1.0, max(0.0, value - bias))
    inside = middle * (1 - middle)
    units = inside / deviation**2 if deviation > 0 and inside > 0 else float(size)
    quantile = _quantile(MANY if is_count else size)
    square = quantile**2 / units
    centre = (middle + square / 2) / (1 + square)
    half = quantile / (1 + square) * float(np.sqrt(inside / units + square / units / 4))
    return Interval(value, max(0.0, centre - half), min(1.0, centre + half))


def logit_interval(value: float, deviation: float, size: int) -> Interval:
    """Of an area under the ROC curve with a bootstrapped standard deviation: symmetric in log(v / (1 - v)).

    Near 1 the area's deviation falls as 1 - v does, not as its root as that of a proportion: Wilson's interval covered
    92 % of samples with 25 positives and an area of 96 %. An area of 0 or 1 gets Wilson's, as of `size` units.
    """
    if deviation <= 0 or not 0 < value < 1:
        return share_interval(value, deviation, size)
    middle, half = float(logit(value)), _quantile(size) * deviation / (value * (1 - value))
    return Interval(value, float(expit(middle - half)), float(expit(middle + half)))


def _quantile(size: int) -> float:
    """Standard deviations on each side: Student's, or the normal ones of many units."""
    if size >= MANY:
        return float(norm.ppf(1 - LEVEL / 2))
    return float(t.ppf(1 - LEVEL / 2, size - 1)) * _widening(size)


def _widening(size: int) -> float:
    """The bootstrap divides squares by n, not by n - 1."""
    return float(np.sqrt(size / (size - 1)))
