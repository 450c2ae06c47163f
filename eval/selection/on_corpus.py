"""Choices whose post-processing is fitted on what a task gives, as they meet its test data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dec2vec.decoder.pooling import View
from eval.postprocess.families import FITTED, Candidate
from eval.postprocess.fitting import Fitting
from eval.postprocess.on_corpus import corpus_candidates
from eval.selection.choose import Choice
from eval.systems.system import CORPUS
from eval.tasks.task import E, Task, TaskVectors


def refitted_on_test(
    task: Task[E], choices: Sequence[Choice], fitting: Fitting, test: Mapping[View, TaskVectors]
) -> list[Choice]:
    """What dev chose, fitted anew on the test side: on the same documents, or on other texts to be clustered."""
    found: list[Choice] = []
    for choice in choices:
        is_on_corpus = choice.system.post is not None and choice.system.post.fitted_on is not None
        found += _fitted(task, choice, fitting, test[choice.system.view]) if is_on_corpus else [choice]
    return found


def both_ways(
    task: Task[E], choices: Sequence[Choice], fitting: Fitting, test: Mapping[View, TaskVectors]
) -> list[Choice]:
    """What another task's dev data chose, and the same view and strength fitted on the corpus.

    That has no dev score: the score of the other task is of another fit. So it never makes a headline.
    """
    found: list[Choice] = []
    for choice in choices:
        found.append(choice)
        if choice.system.family in FITTED and not choice.system.is_transductive:
            twins = _fitted(task, choice, fitting, test[choice.system.view])
            found += [replace(twin, dev_score=float("nan"), dev_data="", dev_metric="") for twin in twins]
    return found


def _fitted(task: Task[E], choice: Choice, fitting: Fitting, vectors: TaskVectors) -> list[Choice]:
    """Nothing where the test side allows no such fit."""
    candidates = corpus_candidates(task, fitting, choice.system.view, vectors, [choice.system.family])
    candidate = _strength(choice, candidates)
    if candidate is None:
        return []
    system = replace(choice.system, post=candidate.described)
    post = candidate.transform(fitting.provenance(system.view))
    return [replace(choice, system=system, k=candidate.k, post=post, is_exported=False)]


def _strength(choice: Choice, candidates: Sequence[Candidate]) -> Candidate | None:
    """The one that was chosen, or the largest k below it that so few texts allow."""
    post = choice.system.post
    assert post is not None
    wanted = post.label.removesuffix(CORPUS)
    same = next((candidate for candidate in candidates if candidate.label == wanted), None)
    smaller = [candidate for candidate in candidates if candidate.k < choice.k]
    return same or max(smaller, key=lambda candidate: candidate.k, default=None)
