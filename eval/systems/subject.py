"""What a row of results is about, as fields. Its name is for readers: no code takes it apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.config import PostName
from eval.systems.system import CORPUS, System

Kind = Literal["system", "baseline", "difference", "mean", "sd"]


@dataclass(frozen=True)
class Subject:
    """A system, a baseline, the difference of two systems, or mean and spread over the seeds of a recipe."""

    name: str
    kind: Kind
    of: tuple[str, ...] = ()
    """Names of what a difference, a mean or a spread is made of; of a difference the tuned system first."""
    run: str | None = None
    """The tuned run, without its seed in a mean or a spread; None for the untuned decoder and for baselines."""
    post: PostName | None = None
    """The family of the post-processing; None for raw vectors."""
    k: int | None = None
    """Dimensions that the post-processing keeps, where it comes in several."""
    transductive: bool = False
    """The post-processing was fitted on the sentences that it is judged on."""
    exported: bool = False
    """The tuned run as it is exported: raw, or whitened if it exports a whitening."""
    fitted_on: str | None = None
    """What a baseline was fitted on; what the task gives, where a post-processing was fitted on that instead of `fit`.
    None where nothing is fitted, or on `fit` as all are."""

    @classmethod
    def from_system(cls, system: System, *, is_exported: bool = False) -> Subject:
        post = system.post
        if post is None:
            return cls(system.name, "system", run=system.run, exported=is_exported)
        of_post = (post.family, post.k, post.is_transductive, is_exported, post.fitted_on)
        return cls(system.name, "system", (), system.run, *of_post)

    @classmethod
    def from_baseline(cls, name: str, fitted_on: str | None = None) -> Subject:
        return cls(f"baseline/{name}", "baseline", fitted_on=fitted_on)

    @classmethod
    def from_difference(cls, ours: Subject, rival: Subject) -> Subject:
        """`ours` minus `rival`."""
        return cls(f"{ours.name} minus {rival.name}", "difference", (ours.name, rival.name), ours.run)

    @classmethod
    def from_seeds(cls, kind: Literal["mean", "sd"], recipe: str, members: Sequence[Subject]) -> Subject:
        """Mean or standard deviation over runs that are seeds of `recipe`."""
        of = tuple(member.name for member in members)
        first = members[0]
        label = recipe_label(recipe, first.post, first.fitted_on)
        return cls(f"{kind} of {label} (n = {len(of)})", kind, of, recipe, first.post, fitted_on=first.fitted_on)

    @property
    def is_tuned(self) -> bool:
        """A tuned system, or what it gains."""
        return self.run is not None and self.kind in ("system", "difference")

    @property
    def is_rival(self) -> bool:
        """An untuned system that the tuned one may be compared with."""
        return self.kind == "system" and self.run is None and not self.transductive


def recipe_label(recipe: str, post: PostName | None, fitted_on: str | None = None) -> str:
    """`tuned/a+whiten`, or `tuned/a+whiten(corpus)`."""
    where = "" if fitted_on is None else CORPUS
    return f"tuned/{recipe}" if post is None else f"tuned/{recipe}+{post}{where}"
