"""Dev scores of many post-processings at once.

Under scales s of a basis a cosine is a ratio of weighted sums over the same coordinates, with the weights s^2: for all
candidates of a basis together that is one rotation of the texts and three matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64

from eval.metrics.correlation import spearman
from eval.postprocess.families import Candidate
from eval.tasks.sts import StsTask


def dev_scores(
    candidates: Sequence[Candidate], vectors: Float[np.ndarray, "texts dim"], task: StsTask
) -> Float64[np.ndarray, " candidates"]:
    """Spearman of each candidate over all pairs; nan where a vector holds inf or nan."""
    scores = np.empty(len(candidates))
    by_basis: dict[int, list[int]] = {}
    for place, candidate in enumerate(candidates):
        by_basis.setdefault(id(candidate.basis), []).append(place)
    for places in by_basis.values():
        group = [candidates[place] for place in places]
        cosines = shared_cosines(group, vectors, task)
        scores[places] = [spearman(column, task.gold) for column in cosines.T]
    return scores


def shared_cosines(
    group: Sequence[Candidate], vectors: Float[np.ndarray, "texts dim"], task: StsTask
) -> Float64[np.ndarray, "pairs candidates"]:
    """Of candidates with one basis. A zero vector has no direction: its cosine is 0.

    Rounded to 12 decimals: equal texts have cosine 1 and tie, whatever the order of summation.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        coordinates = group[0].basis.coordinates(vectors)
        weights = np.stack([candidate.scales**2 for candidate in group], axis=1)
        products = (coordinates[task.left] * coordinates[task.right]) @ weights
        lengths = np.sqrt((coordinates * coordinates) @ weights)
        norms = lengths[task.left] * lengths[task.right]
        cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms != 0)
    return np.asarray(np.clip(cosines, -1.0, 1.0).round(12))
