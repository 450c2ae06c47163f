"""The one selection: of every post-processing the layer, pooling and strength with the best dev score.

Of equal dev scores the deeper layer is chosen, then the larger k, then the first candidate. This holds for every task
and for every comparison of chosen systems, so that two runs of an evaluation agree. Test data are never seen here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

import numpy as np

from dec2vec.decoder.pooling import View
from dec2vec.vectors.affine import Affine
from eval.config import PostName
from eval.metrics.grid_edge import edge
from eval.postprocess.families import SIZED, Candidate
from eval.postprocess.fitting import Fitting
from eval.postprocess.on_corpus import corpus_candidates
from eval.postprocess.scores import applied, dev_scores
from eval.postprocess.text_statistics import whitened_by_itself
from eval.systems.system import TRANSDUCTIVE, System
from eval.tasks.task import E, Task, TaskVectors

Rank = tuple[float, float, int]
Selection = Literal["fixed", "dev", "other dev", "none"]
"""How a reading came about: it was given; it is the best on the task's own dev data, or on that of another task; or it
is one of several among which nothing chose."""


@dataclass(frozen=True)
class Contender:
    """One candidate of a choice. `k` is the width of its vectors."""

    system: System
    k: int
    dev_score: float

    @property
    def rank(self) -> Rank:
        """Dev score, then layer, then k: higher is better. A score that is not a number is the lowest."""
        score = self.dev_score if np.isfinite(self.dev_score) else -np.inf
        return score, float(self.system.view.layer), self.k


@dataclass(frozen=True, eq=False)
class Choice(Contender):
    """The chosen candidate, with the map that makes its vectors from raw ones of its view."""

    chosen_on: str | None = None
    """The name of the dev data; None where there was nothing to choose."""
    post: Affine | None = None
    dev_curve: tuple[Contender, ...] = field(default=(), repr=False)
    """Every candidate that it was chosen from."""
    selection: Selection = "fixed"
    dev_data: str = ""
    """The name of the data that `dev_score` was measured on; empty where there were none."""
    dev_metric: str = ""
    is_exported: bool = False
    """This is the tuned run as it is exported."""

    def applied(self, vectors: TaskVectors) -> TaskVectors:
        """The system's vectors of one split, from raw ones."""
        if self.system.is_transductive:
            return TaskVectors.from_queries(whitened_by_itself(vectors.queries, self.k))
        return applied(self.post, vectors)

    @property
    def edge(self) -> str | None:
        """Where k is the smallest or the largest that was tried at its layer, in words."""
        if self.post is None or self.system.family not in SIZED or self.system.is_transductive:
            return None
        tried = [point.k for point in self.dev_curve if point.system.view == self.system.view]
        return dimension_edge(self.k, tried, len(self.post.mean)) if tried else None


NARROWEST = 2
"""Vectors of one dimension have no cosine but 1 and -1."""


def dimension_edge(k: int, tried: Sequence[int], width: int) -> str | None:
    """Whether k lies at the edge of `tried`, in words."""
    line = edge("k", k, tried, low=NARROWEST, high=width)
    return None if line is None else f"{line} (systems.dimensions)"


C = TypeVar("C", bound=Contender)


def best(contenders: Sequence[C]) -> C:
    """The highest by `Contender.rank`; of equals the first. Transductive systems never win."""
    return max(
        (contender for contender in contenders if not contender.system.is_transductive),
        key=lambda contender: contender.rank,
    )


def choose(task: Task[E], dev: Mapping[View, TaskVectors], fitting: Fitting, views: Iterable[View]) -> list[Choice]:
    """The best of `views` and strengths for each post-processing, in their order; fitted on a corpus as well.

    A post-processing that cannot be made (no text to fit on, a constant view) has no choice. A candidate that lost is
    dropped at once: its map is never built, and one view's vectors at a time are in memory.
    """
    points: dict[tuple[PostName, bool], list[Contender]] = {}
    leaders: dict[tuple[PostName, bool], tuple[Contender, Candidate]] = {}
    for view in views:
        vectors = dev[view]
        candidates = fitting.candidates(view, vectors.queries.shape[1])
        candidates += corpus_candidates(task, fitting, view, vectors)
        for candidate, score in zip(candidates, dev_scores(task, candidates, vectors), strict=True):
            point = Contender(fitting.system(view, candidate.described), candidate.k, float(score))
            points.setdefault(candidate.kind, []).append(point)
            if candidate.kind not in leaders or point.rank > leaders[candidate.kind][0].rank:
                leaders[candidate.kind] = point, candidate
    posts = dict.fromkeys((*fitting.posts, *fitting.corpus_posts))
    kinds = [(post, on_corpus) for post in posts for on_corpus in (False, True)]
    return [_choice(*leaders[kind], task, fitting, points[kind]) for kind in kinds if kind in leaders]


def choose_by_pooling(
    task: Task[E],
    dev: Mapping[View, TaskVectors],
    fitting: Fitting,
    views: Sequence[View],
    *,
    transductive: bool = False,
) -> list[Choice]:
    """As `choose`, for each pooling in turn: a table of similarity has a row for each.

    The dev scores are computed anew, from the vectors that the tests will meet as well.
    """
    choices: list[Choice] = []
    for pooling in dict.fromkeys(view.pooling for view in views):
        chosen = choose(task, dev, fitting, [view for view in views if view.pooling == pooling])
        choices += [rescored(task, choice, dev) for choice in chosen]
        if transductive:
            whitened = [_transductive(choice, task) for choice in chosen if choice.system.family == "whiten"]
            choices += [rescored(task, choice, dev) for choice in whitened]
    return choices


def rescored(task: Task[E], choice: Choice, dev: Mapping[View, TaskVectors]) -> Choice:
    """The choice with the dev score of the vectors themselves."""
    score = task.dev_score(choice.applied(dev[choice.system.view]))
    return replace(choice, dev_score=score, dev_data=task.chosen_on, dev_metric=task.metric)


def _choice(
    point: Contender, candidate: Candidate, task: Task[E], fitting: Fitting, points: Sequence[Contender]
) -> Choice:
    is_chosen = len(points) > 1
    return Choice(
        point.system,
        point.k,
        point.dev_score,
        chosen_on=task.chosen_on if is_chosen else None,
        post=candidate.transform(fitting.provenance(point.system.view)),
        dev_curve=tuple(points),
        selection="dev" if is_chosen else "fixed",
        dev_data=task.chosen_on,
        dev_metric=task.metric,
    )


def _transductive(honest: Choice, task: Task[E]) -> Choice:
    """The chosen whitening's layer and k, fitted on the sentences of each file on its own."""
    post = honest.system.post
    assert post is not None
    labelled = replace(post, label=f"{post.label}{TRANSDUCTIVE}", is_transductive=True)
    system = replace(honest.system, post=labelled)
    return Choice(system, honest.k, float("nan"), chosen_on=task.chosen_on, selection="dev")
