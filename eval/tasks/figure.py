"""One measured number with its bootstrap values, and the interval that may be shown with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64

from eval.metrics.intervals import Interval, interval, logit_interval, p_value, share_interval

FEWEST_UNITS = 20
"""Pairs, texts or queries below which no interval is shown."""
FEWEST_UNLIKE = 10
"""Units that must differ from the commonest value (of a difference: on which two systems must differ)."""
FEWEST_RUNS = 3
"""Runs of a recipe from which on their spread tells seeds from texts."""
Scale = Literal["open", "share", "count", "area"]
"""Percentiles for the first; Wilson's interval for a figure between 0 and 1, and for one that counts yes and no; one
that is symmetric in the logit for an area under the ROC curve."""


@dataclass(frozen=True, eq=False)
class Figure:
    """Figures of two systems are paired: the same task, seed and units give the same resamples."""

    metric: str
    value: float
    resampled: Float64[np.ndarray, " resamples"]
    n: int
    """Units that were resampled: pairs, texts or queries."""
    clean: bool = False
    """Measured only on the items that training has not seen."""
    scale: Scale = "open"
    size: int | None = None
    """What the interval's quantile counts: of ranking figures the rarer label. None for n."""
    units: Float64[np.ndarray, " units"] | None = None
    """Of a mean its values, in which two systems differ on few units or on many."""
    bias: float = 0.0
    """Of a share: how much too high it is on average, by which its interval is moved."""
    no_interval: str = ""
    """Why there is none, such as `3 classes with fewer than 5 texts`: its coverage was not shown."""
    no_difference: str = ""
    """The same of the difference from another system."""
    conservative: str = ""
    """Why the interval is shown though it holds the truth more often than in 95 % of samples, such as `2 runs`."""

    @property
    def interval(self) -> Interval | None:
        """At 95 %; None where `no_interval` says why. nan for a figure that is not a number."""
        if self.no_interval:
            return None
        if self.scale == "open" or not np.isfinite(self.resampled).all():
            return interval(self.value, self.resampled, self._size)
        deviation, is_count = float(self.resampled.std()), self.scale == "count"
        if self.scale == "area":
            return logit_interval(self.value, deviation, self._size)
        return share_interval(self.value, deviation, self._size, self.bias, is_count=is_count)

    @property
    def bounds(self) -> tuple[float, float] | tuple[None, None]:
        """Those of the interval, or None twice."""
        found = self.interval
        return (None, None) if found is None else (found.low, found.high)

    @property
    def p_value(self) -> float:
        """Of a difference; nan where there is no interval."""
        return float("nan") if self.no_interval else p_value(self.resampled, self._size)

    def minus(self, other: Figure) -> Figure:
        """The paired difference."""
        units = None if self.units is None or other.units is None else self.units - other.units
        reason = self.no_difference or other.no_difference or _too_few_differ(units)
        return Figure(
            self.metric,
            self.value - other.value,
            self.resampled - other.resampled,
            self.n,
            self.clean,
            size=min(self._size, other._size),
            units=units,
            no_interval=reason,
            conservative=self.conservative or other.conservative,
        )

    def without_interval(self, reason: str) -> Figure:
        """The same figure, where a reason is given; of this one and of its differences nothing is claimed."""
        return replace(self, no_interval=reason, no_difference=reason) if reason else self

    @property
    def _size(self) -> int:
        return max(2, self.n if self.size is None else self.size)

    @classmethod
    def mean(cls, figures: Sequence[Figure]) -> Figure:
        """The mean over test sets, which are resampled independently of each other."""
        value = float(np.mean([figure.value for figure in figures]))
        resampled = np.mean([figure.resampled for figure in figures], axis=0)
        own, gap = (
            next((reason for reason in reasons if reason), "")
            for reasons in ([f.no_interval for f in figures], [f.no_difference for f in figures])
        )
        first, n, size = figures[0], sum(figure.n for figure in figures), sum(figure._size for figure in figures)
        return cls(first.metric, value, resampled, n, first.clean, size=size, no_interval=own, no_difference=gap)

    @classmethod
    def over_seeds(cls, members: Sequence[Figure], seed: int = 0) -> Figure:
        """The mean over runs that differ in their seed, with both kinds of spread: other texts, and other seeds.

        To the bootstrap values of the mean is added what other seeds would have moved it by: the runs' standard
        deviation over the root of their number, times Student's t of their number minus 1 (Behrens and Fisher). Runs
        differ in how they take the texts as well, which the bootstrap has already. From three runs on that is taken
        off; of two the deviation is too uncertain, and the interval errs on the wide side.
        """
        mean, runs = cls.mean(members), len(members)
        variance = float(np.var([figure.value for figure in members], ddof=1))
        if runs >= FEWEST_RUNS:
            variance = max(0.0, variance - _variance_by_texts([figure.resampled for figure in members]))
        draws = np.random.default_rng((seed, runs)).standard_t(runs - 1, len(mean.resampled))
        return replace(
            mean,
            resampled=mean.resampled + draws * np.sqrt(variance / runs),
            n=members[0].n,
            size=min(figure._size for figure in members),
            conservative="2 runs" if runs < FEWEST_RUNS else "",
        )


def _variance_by_texts(runs: Sequence[Float64[np.ndarray, " resamples"]]) -> float:
    """Of a run's figure about the mean of the runs, as far as it is another with other texts."""
    drawn = np.stack(runs)
    return float((drawn - drawn.mean(axis=0)).var(axis=1).sum() / (len(runs) - 1))


def too_few(count: int, what: str, fewest: int = FEWEST_UNITS) -> str:
    """`fewer than 20 positive pairs (14)`; empty where there are enough."""
    return f"fewer than {fewest:,} {what} ({count:,})" if count < fewest else ""


def too_few_unlike(values: Float64[np.ndarray, " units"], what: str, fewest: int = FEWEST_UNLIKE) -> str:
    """Where nearly all units have one and the same value."""
    unlike = len(values) - int(np.unique(values, return_counts=True)[1].max()) if len(values) else 0
    return too_few(unlike, f"{what} that differ from the rest", fewest)


def _too_few_differ(differences: Float64[np.ndarray, " units"] | None) -> str:
    if differences is None or np.isnan(differences).any():
        return ""
    return too_few(int(np.count_nonzero(differences)), "items on which the two differ", FEWEST_UNLIKE)
