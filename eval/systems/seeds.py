"""Runs of one recipe under several seeds: known by their names, shown with mean and spread."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar, get_args

import numpy as np
from jaxtyping import Float, Float64

from eval.config import PostName

_SEED = re.compile(r"[-_]seed[-_]?\d+$")
_POSTS: frozenset[str] = frozenset(get_args(PostName))
T = TypeVar("T")


@dataclass(frozen=True)
class Seeds:
    """At least two tuned rows of one recipe and one kind of post-processing, such as `tuned/a+whiten`."""

    label: str
    systems: tuple[str, ...]

    @property
    def mean_name(self) -> str:
        """Of the row below theirs."""
        return f"mean of {self.label} (n = {len(self.systems)})"

    @property
    def sd_name(self) -> str:
        """Of the row below that."""
        return f"sd of {self.label} (n = {len(self.systems)})"


def without_seed(run: str) -> str:
    """`english-8m-seed2` is of `english-8m`."""
    return _SEED.sub("", run)


def by_recipe(items: Iterable[T], name: Callable[[T], str]) -> dict[str, list[T]]:
    """By their name without its seed, in the order given."""
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


def seeds_of(systems: Iterable[str]) -> list[Seeds]:
    """Among the names of systems; k may differ between the seeds of one post-processing."""
    tuned = [name for name in systems if name.startswith("tuned/")]
    groups: dict[str, list[str]] = {}
    for name in tuned:
        run, family = split_name(name)
        recipe = without_seed(run)
        if recipe != run:
            groups.setdefault(f"tuned/{recipe}{'+' if family else ''}{family}", []).append(name)
    return [Seeds(label, tuple(members)) for label, members in groups.items() if len(members) > 1]


def split_name(system: str) -> tuple[str, str]:
    """Run and kind of post-processing of a tuned row: `tuned/a-seed1+whiten-64` -> (a-seed1, whiten)."""
    run, _, post = system.removeprefix("tuned/").rpartition("+")
    family = post.partition("-")[0]
    return (run, family) if run and family in _POSTS else (system.removeprefix("tuned/"), "")


def is_spread(name: str) -> bool:
    """A row of this file, not of a system."""
    return name.startswith(("mean of ", "sd of "))
