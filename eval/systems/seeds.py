"""Runs of one recipe under several seeds: recognised by their names, shown with mean and spread."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Float64

from eval.systems.subject import Subject, recipe_label

_SEED = re.compile(r"[-_]seed[-_]?\d+$")
T = TypeVar("T")


@dataclass(frozen=True)
class Seeds:
    """At least two tuned systems of one recipe and one kind of post-processing."""

    recipe: str
    members: tuple[Subject, ...]

    @property
    def label(self) -> str:
        """Such as `tuned/a+whiten`."""
        return recipe_label(self.recipe, self.members[0].post, self.members[0].fitted_on)

    @property
    def mean(self) -> Subject:
        return Subject.from_seeds("mean", self.recipe, self.members)

    @property
    def sd(self) -> Subject:
        return Subject.from_seeds("sd", self.recipe, self.members)


def without_seed(run: str) -> str:
    """The recipe in a run's name: `english-8m` for `english-8m-seed2`."""
    return _SEED.sub("", run)


def by_recipe(items: Iterable[T], name: Callable[[T], str]) -> dict[str, list[T]]:
    """Items by their name without its seed, in the order given."""
    found: dict[str, list[T]] = {}
    for item in items:
        found.setdefault(without_seed(name(item)), []).append(item)
    return found


def mean_and_sd(
    figures: Float[np.ndarray, "runs figures"],
) -> tuple[Float64[np.ndarray, " figures"], Float64[np.ndarray, " figures"]]:
    """Over the runs, not over the pairs: what another seed would have given. Sample standard deviation, n - 1."""
    wide = figures.astype(np.float64)
    return wide.mean(axis=0), wide.std(axis=0, ddof=1)


def find_seeds(subjects: Iterable[Subject]) -> list[Seeds]:
    """Groups of tuned systems whose runs differ in their seed; k may differ within a group.

    Transductive rows are left out: they have the post-processing of another row of their run, and never win. So are
    strengths of one post-processing among which nothing chose: a run counts once.
    """
    groups: dict[tuple[str, str | None, str | None], list[Subject]] = {}
    for subject in subjects:
        if subject.kind != "system" or subject.run is None or subject.transductive:
            continue
        if without_seed(subject.run) != subject.run:
            groups.setdefault((without_seed(subject.run), subject.post, subject.fitted_on), []).append(subject)
    return [
        Seeds(recipe, tuple(members))
        for (recipe, *_), members in groups.items()
        if len({member.run for member in members}) == len(members) > 1
    ]
