"""Other readings of the same vectors: dot product, Euclidean and Manhattan distance, and Pearson's correlation.

The headline and every choice use Spearman of cosines; these show whether that matters. Of tuned systems and the best
untuned ones alone: each is resampled as the headline is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Float64

from dec2vec.vectors.quantization import Ranges, hamming, to_bits
from eval.metrics.correlation import cosine_pairs, spearman
from eval.metrics.resampling import multiplicities
from eval.metrics.statistics import Bootstrap
from eval.results.results import AVERAGE, Comparison, Figure, Judged, Result, to_result
from eval.tasks.sts import StsTask

Pairs = Float[np.ndarray, "pairs dim"]


def _dot(left: Pairs, right: Pairs) -> Float64[np.ndarray, " pairs"]:
    return np.asarray(np.einsum("nd,nd->n", left, right))


def _euclid(left: Pairs, right: Pairs) -> Float64[np.ndarray, " pairs"]:
    return np.asarray(-np.linalg.norm(left - right, axis=1))


def _manhattan(left: Pairs, right: Pairs) -> Float64[np.ndarray, " pairs"]:
    return np.asarray(-np.abs(left - right).sum(axis=1))


SIMILARITIES: Mapping[str, Callable[[Pairs, Pairs], Float64[np.ndarray, " pairs"]]] = {
    "cosine": cosine_pairs,
    "dot": _dot,
    "euclid": _euclid,
    "manhattan": _manhattan,
}
"""Higher is more similar: distances are negative."""


def similarities(
    task: StsTask, vectors: Float[np.ndarray, "texts dim"], ranges: Ranges
) -> dict[str, Float64[np.ndarray, " pairs"]]:
    """Every similarity of a task's pairs, in float64. Vectors are not normalised first: dot products keep lengths.

    Also what is left of the cosines after one byte a dimension (`int8`), and the signs alone (`binary`, by the
    dimensions in which they agree).
    """
    left, right = vectors[task.left].astype(np.float64), vectors[task.right].astype(np.float64)
    found = {name: similarity(left, right) for name, similarity in SIMILARITIES.items()}
    rounded, bits = ranges.rounded(vectors), to_bits(vectors)
    found["int8"] = cosine_pairs(rounded[task.left].astype(np.float64), rounded[task.right].astype(np.float64))
    found["binary"] = -hamming(bits[task.left], bits[task.right]).astype(np.float64)
    return found


def pearson(scores: Float64[np.ndarray, " pairs"], gold: Float64[np.ndarray, " pairs"]) -> float:
    """0 for constant scores, nan for a nan."""
    return float(_pearsons(scores, gold, np.ones((1, len(gold))))[0])


def similarity_results(
    judged: Sequence[Judged], tests: Sequence[StsTask], comparison: Comparison, *, resamples: int, seed: int
) -> list[Result]:
    """Rows `pearson_cosine`, `spearman_dot`, `pearson_dot` ...; Spearman of cosines is `spearman_all`."""
    named = {comparison.untuned, comparison.best_untuned_on_test}
    shown = [item for item in judged if item.system.is_tuned or item.system.name in named]
    rows: list[Result] = []
    for item in shown:
        by_task = [_figures(item.similarities[task.name], task, resamples, seed) for task in tests]
        average = {metric: Figure.mean([found[metric] for found in by_task]) for metric in by_task[0]}
        names = [*(task.name for task in tests), AVERAGE]
        for name, found in zip(names, [*by_task, average], strict=True):
            rows += [to_result(item.system.name, name, metric, f, item.choice.chosen_on) for metric, f in found.items()]
    return rows


def _figures(
    scores: Mapping[str, Float64[np.ndarray, " pairs"]], task: StsTask, resamples: int, seed: int
) -> dict[str, Figure]:
    bootstrap = Bootstrap(task.gold, np.zeros(len(task), dtype=np.int64), resamples=resamples, seed=seed)
    found: dict[str, Figure] = {}
    for name, values in scores.items():
        if name != "cosine":
            drawn = bootstrap.correlations(values)
            found[f"spearman_{name}"] = Figure(spearman(values, task.gold), drawn, len(task))
        parts = [_pearsons(values, task.gold, counts) for counts in multiplicities(len(task), resamples, seed)]
        found[f"pearson_{name}"] = Figure(pearson(values, task.gold), np.concatenate(parts), len(task))
    return found


def _pearsons(
    scores: Float64[np.ndarray, " pairs"],
    gold: Float64[np.ndarray, " pairs"],
    weights: Float64[np.ndarray, "resamples pairs"],
) -> Float64[np.ndarray, " resamples"]:
    """Weighted correlations. Both sides are centred first: dot products can be large."""
    x, y = scores - scores.mean(), gold - gold.mean()
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    covariance = weights @ (x * y) / total - mean_x * mean_y
    spread = (weights @ (x * x) / total - mean_x**2) * (weights @ (y * y) / total - mean_y**2)
    scale = np.sqrt(np.maximum(spread, 0.0))
    return np.asarray(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale != 0))
