"""Dev scores of many post-processings at once.

Similarity needs nothing but cosines. Under scales s of a basis a cosine is a ratio of weighted sums over the same
coordinates, with the weights s^2: for all candidates of a basis together that is one rotation of the texts and three
matrix products. Every other task is scored on the vectors of each candidate in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from dec2vec.vectors.affine import Affine
from eval.metrics.correlation import spearman
from eval.postprocess.families import Candidate
from eval.tasks.sts import GradedPairs, StsTask
from eval.tasks.task import E, Task, TaskVectors


def dev_scores(
    task: Task[E], candidates: Sequence[Candidate], vectors: TaskVectors
) -> Float64[np.ndarray, " candidates"]:
    """The task's dev score of each candidate; nan where a vector holds inf or nan."""
    if isinstance(task, StsTask):
        return correlations(candidates, vectors.queries, task.known_dev_pairs)
    return np.array([task.dev_score(applied(candidate.transform(), vectors)) for candidate in candidates])


def applied(post: Affine | None, vectors: TaskVectors) -> TaskVectors:
    """Both sides through one map."""
    if post is None:
        return vectors
    queries, documents = post.apply(vectors.queries), vectors.documents
    return TaskVectors(queries, post.apply(documents) if len(documents) else queries[:0])


def correlations(
    candidates: Sequence[Candidate], vectors: Float[np.ndarray, "texts dim"], pairs: GradedPairs
) -> Float64[np.ndarray, " candidates"]:
    """Spearman of each candidate over all pairs; nan where a vector holds inf or nan."""
    scores = np.empty(len(candidates))
    by_basis: dict[int, list[int]] = {}
    for index, candidate in enumerate(candidates):
        by_basis.setdefault(id(candidate.basis), []).append(index)
    for indices in by_basis.values():
        group = [candidates[index] for index in indices]
        cosines = shared_cosines(group, vectors, pairs)
        scores[indices] = [spearman(column, pairs.gold) for column in cosines.T]
    return scores


def shared_cosines(
    group: Sequence[Candidate], vectors: Float[np.ndarray, "texts dim"], pairs: GradedPairs
) -> Float64[np.ndarray, "pairs candidates"]:
    """Cosines under candidates with one basis. A zero vector has no direction: its cosine is 0.

    Rounded to 12 decimals: equal texts have cosine 1 and tie, whatever the order of summation.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        coordinates = group[0].basis.coordinates(vectors)
        weights = np.stack([candidate.scales**2 for candidate in group], axis=1)
        products = (coordinates[pairs.left] * coordinates[pairs.right]) @ weights
        lengths = np.sqrt((coordinates * coordinates) @ weights)
        norms = lengths[pairs.left] * lengths[pairs.right]
        cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms != 0)
    return np.asarray(np.clip(cosines, -1.0, 1.0).round(12))
