"""The fitted post-processings once more, fitted on what a task itself gives: documents, or texts to be clustered.

Whoever searches or clusters has these texts at hand before anything is asked, and no judgement is used. Queries are
never fitted on. It is not the transductive whitening of similarity, which is fitted on the very sentences whose pairs
are judged, and which never wins.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from jaxtyping import Float32
from numpy import ndarray

from dec2vec.config.model import LOGIT_POOLINGS
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from dec2vec.vectors.whitening import Moments
from eval.config import PostName
from eval.postprocess.families import FITTED, SIZED, Candidate, Source, candidates
from eval.postprocess.fitting import Fitting
from eval.postprocess.text_statistics import Fitted
from eval.systems.system import candidate_dimensions
from eval.tasks.task import E, Task, TaskVectors

BLOCK = 8192
"""Vectors that are read at once."""
logger = logging.getLogger(__name__)


def corpus_candidates(
    task: Task[E], fitting: Fitting, view: View, vectors: TaskVectors, posts: Sequence[PostName] | None = None
) -> list[Candidate]:
    """Every fitted post-processing (or those of `posts`) in every strength; none for most tasks."""
    own, rows = task.own_text, task.corpus(vectors)
    wanted = [post for post in dict.fromkeys(fitting.corpus_posts if posts is None else posts) if post in FITTED]
    if own is None or rows is None or not wanted or view.pooling in LOGIT_POOLINGS:
        return []
    width = rows.shape[1]
    dimensions = candidate_dimensions(fitting.dimensions, width) if SIZED & {*wanted} else []
    try:
        source = Source(width, dimensions, Fitted(_moments(rows)))
    except UserError as error:
        logger.info("%s: nothing is fitted on the %s: %s", task.name, own.described, error)
        return []
    return [replace(found, fitted_on=own.described) for post in wanted for found in _of(task, post, source)]


def _of(task: Task[E], post: PostName, source: Source) -> Iterator[Candidate]:
    try:
        yield from candidates(post, source)
    except UserError as error:
        logger.info("%s: no %s is fitted on its own texts: %s", task.name, post, error)


def _moments(rows: Float32[ndarray, "texts dim"]) -> Moments:
    moments = Moments(rows.shape[1])
    for start in range(0, len(rows), BLOCK):
        moments.update(rows[start : start + BLOCK])
    return moments
