"""The headline of a task: the tuned run as it is exported, its untuned rival and the best outside row, as fields.

None of the three is picked in favour of the tuned run: its post-processings are further rows, its untuned rival comes
from the task's own dev data or is the same reading without its adapter, and the outside row is the best on the test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.results.comparisons import holm
from eval.selection.choose import Choice, Selection, best
from eval.systems.seeds import find_seeds, mean_and_sd
from eval.systems.subject import Subject
from eval.tasks.task import Figure


@dataclass(frozen=True, eq=False)
class Entrant:
    """A row of a task's table, with the figure that decides."""

    subject: Subject
    figure: Figure
    choice: Choice | None = None
    """None for a baseline."""

    @property
    def score(self) -> float:
        """The figure; the lowest where there is none."""
        return self.figure.value if np.isfinite(self.figure.value) else -np.inf


@dataclass(frozen=True)
class Party:
    """One of the systems that a headline names."""

    name: str
    value: float
    low: float | None
    high: float | None
    selection: Selection
    """How it came to stand here; of an outside row always "none", as its test figure did it."""
    selected_on: str | None
    """The name of the dev data that selected it; None where none did."""
    candidates: int
    """Rows among which it was selected, itself included."""

    @classmethod
    def from_entrant(
        cls, entrant: Entrant, selection: Selection, selected_on: str | None = None, candidates: int = 1
    ) -> Party:
        low, high = entrant.figure.bounds
        return cls(entrant.subject.name, entrant.figure.value, low, high, selection, selected_on, candidates)


@dataclass(frozen=True)
class Gap:
    """Tuned minus a rival, with its paired interval."""

    value: float
    low: float | None
    high: float | None
    p_value: float
    """Two-sided, from the paired resamples behind the interval."""
    p_corrected: float
    """The same after Holm's correction for all rows from which the rival was picked by its test figure."""
    no_interval: str = ""
    """Why there is no interval, and so no p-value."""
    conservative: str = ""
    """Why the interval is wider than it had to be."""

    @classmethod
    def from_difference(cls, figure: Figure, p_corrected: float | None = None) -> Gap:
        low, high = figure.bounds
        p = figure.p_value
        corrected = p if p_corrected is None else p_corrected
        return cls(figure.value, low, high, p, corrected, figure.no_interval, figure.conservative)

    @property
    def is_tie(self) -> bool:
        """The interval holds 0 (or there is none): neither is shown to be better."""
        return self.low is None or self.high is None or not (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Spread:
    """The tuned run of a headline is one of several seeds of a recipe."""

    recipe: str
    runs: int
    mean: float
    sd: float
    to_untuned: Gap | None = None
    """Mean of the seeds minus the untuned rival: with the spread of seeds as well as of texts."""


@dataclass(frozen=True)
class Headline:
    """What a reader is told first. A system that there is not is None, and so is what it would be compared with."""

    metric: str
    n: int
    """Units that were resampled."""
    resamples: int
    compared: int
    """Systems in the table."""
    tuned: Party | None
    untuned: Party | None
    outside: Party | None
    highest_untuned: Party | None
    """The untuned row with the highest test figure: luck is on its side."""
    to_untuned: Gap | None
    to_outside: Gap | None
    to_highest_untuned: Gap | None = None
    """None as well where the highest untuned row is the rival itself."""
    seeds: Spread | None = None
    is_judged: bool = True
    """Whether a higher figure is a better one. Where it is not, no row is picked because its figure is the highest."""

    @property
    def is_above_every_untuned(self) -> bool:
        """Even above the untuned row that happens to be best on the test."""
        both = self.tuned, self.highest_untuned
        return both[0] is not None and both[1] is not None and both[0].value > both[1].value


Named = tuple[Entrant, Party]
"""A row of the headline with what the headline says of it."""


def make_headline(entrants: Sequence[Entrant], *, has_dev: bool, is_judged: bool = True) -> Headline:
    """`has_dev`: the task has dev data of its own. `is_judged`: a higher figure is a better one."""
    ours, rival = tuned_side(entrants, has_dev=has_dev), untuned_side(entrants, has_dev=has_dev)
    outside = [row for row in entrants if row.subject.kind == "baseline" and is_judged]
    rivals = [row for row in entrants if row.subject.is_rival and is_judged]
    is_other = bool(rivals) and (rival is None or top(rivals) is not rival[0])
    figure = entrants[0].figure
    return Headline(
        metric=figure.metric,
        n=figure.n,
        resamples=len(figure.resampled),
        compared=len(entrants),
        tuned=_party(ours),
        untuned=_party(rival),
        outside=_highest(outside),
        highest_untuned=_highest(rivals),
        to_untuned=None if ours is None or rival is None else _gap(ours[0], rival[0], [rival[0]]),
        to_outside=None if ours is None or not outside else _gap(ours[0], top(outside), outside),
        to_highest_untuned=_gap(ours[0], top(rivals), rivals) if ours is not None and is_other else None,
        seeds=None if ours is None else _spread(ours[0], None if rival is None else rival[0], entrants),
        is_judged=is_judged,
    )


def top(entrants: Sequence[Entrant]) -> Entrant:
    """The highest figure; of equals the first."""
    return max(entrants, key=lambda row: row.score)


def tuned_side(entrants: Sequence[Entrant], *, has_dev: bool) -> Named | None:
    """The tuned run as it is exported. Among several runs dev data choose, or else the first of them stands here."""
    exported = [row for row in entrants if row.subject.exported]
    if len(exported) < 2:
        return (exported[0], Party.from_entrant(exported[0], "fixed")) if exported else None
    return _best_on_dev(exported, has_dev=has_dev) or (
        exported[0],
        Party.from_entrant(exported[0], "none", None, len(exported)),
    )


def untuned_side(entrants: Sequence[Entrant], *, has_dev: bool) -> Named | None:
    """The best on the task's own dev data; without them the tuned run's reading, or the only one that was given.

    Only where there is neither it is what another task's dev data chose, and where nothing chose it is None.
    """
    rivals = [row for row in entrants if row.subject.is_rival]
    ours = tuned_side(entrants, has_dev=has_dev)
    if has_dev:
        return _best_on_dev(rivals, has_dev=True)
    given = [row for row in rivals if row.choice is not None and row.choice.selection == "fixed"]
    alike = [row for row in given if ours is not None and _is_reading_of(row, ours[0])] or given
    raw = [row for row in alike if row.subject.post is None]
    if len(raw) == 1 or len(alike) == 1:
        row = (raw or alike)[0]
        return row, Party.from_entrant(row, "fixed")
    return _best_on_dev(rivals, has_dev=False)


def _best_on_dev(rows: Sequence[Entrant], *, has_dev: bool) -> Named | None:
    """By the dev score, whether of the task's own data or of another's; None where there is none."""
    by_choice = {row.choice: row for row in rows if row.choice is not None and row.choice.dev_data}
    if not by_choice:
        return None
    choice = best(list(by_choice))
    row, is_alone = by_choice[choice], len(by_choice) == 1 and choice.selection == "fixed"
    selection: Selection = "fixed" if is_alone else "dev" if has_dev else "other dev"
    return row, Party.from_entrant(row, selection, None if is_alone else choice.dev_data, len(by_choice))


def _is_reading_of(row: Entrant, tuned: Entrant) -> bool:
    """Whether an untuned row is read as the tuned run is."""
    if row.choice is None or tuned.choice is None:
        return False
    one, other = row.choice.system, tuned.choice.system
    return (one.prompt, one.view) == (other.prompt, other.view)


def _party(named: Named | None) -> Party | None:
    return None if named is None else named[1]


def _highest(rows: Sequence[Entrant]) -> Party | None:
    return Party.from_entrant(top(rows), "none", None, len(rows)) if rows else None


def _gap(ours: Entrant, rival: Entrant, picked_from: Sequence[Entrant]) -> Gap:
    """`picked_from` are the rows among which `rival` stands out by its test figure."""
    raw = [ours.figure.minus(row.figure).p_value for row in picked_from]
    position = next(number for number, row in enumerate(picked_from) if row is rival)
    difference = ours.figure.minus(rival.figure)
    return Gap.from_difference(difference, holm(raw)[position])


def _spread(ours: Entrant, rival: Entrant | None, entrants: Sequence[Entrant]) -> Spread | None:
    figures = {row.subject.name: row.figure for row in entrants}
    for seeds in find_seeds(row.subject for row in entrants if row.subject.exported):
        names = [member.name for member in seeds.members]
        if ours.subject.name in names:
            mean, sd = mean_and_sd(np.array([[figures[name].value] for name in names]))
            over = Figure.over_seeds([figures[name] for name in names])
            gap = None if rival is None else Gap.from_difference(over.minus(rival.figure))
            return Spread(seeds.label, len(names), float(mean[0]), float(sd[0]), gap)
    return None
