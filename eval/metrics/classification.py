"""Metrics of yes/no and of many-class decisions, for the sample and for any number of its resamples at once.

A resample is a row of multiplicities (`eval.metrics.resampling`); the sample itself is a row of ones (`whole`).
Scores are sorted once, and a resample only changes the weights in the cumulative sums.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64

from eval.config import Criterion

Scores = Float64[np.ndarray, " units"]
Labels = Bool[np.ndarray, " units"]
Codes = Int64[np.ndarray, " units"]
Weights = Float64[np.ndarray, "resamples units"]
Values = Float64[np.ndarray, " resamples"]


def whole(n: int) -> Float64[np.ndarray, "1 units"]:
    """Every unit once: the sample itself."""
    return np.ones((1, n))


def ranking_metrics(scores: Scores, labels: Labels, weights: Weights) -> dict[str, Values]:
    """Average precision (`ap`) and area under the ROC curve (`auc`), as scikit-learn defines them.

    Where a resample holds one class only, AP is 0 without positives and AUC is 1/2: nothing was told apart.
    """
    if np.isnan(scores).any():
        return dict.fromkeys(("ap", "auc"), np.full(len(weights), np.nan))
    hits, misses, gained, tied = _at_positives(scores, labels, weights)
    positives = weights @ labels.astype(np.float64)
    negatives = weights.sum(axis=1) - positives
    ap = _divide((gained * _divide(hits, hits + misses)).sum(axis=1), positives)
    below = negatives[:, None] - misses + tied / 2
    auc = _divide((gained * below).sum(axis=1), positives * negatives, otherwise=0.5)
    return {"ap": ap, "auc": auc}


def decision_metrics(scores: Scores, labels: Labels, weights: Weights, threshold: float) -> dict[str, Values]:
    """accuracy, f1, precision and recall of "yes from `threshold` on"; 0/0 is 0, nan in gives nan throughout."""
    if np.isnan(scores).any() or np.isnan(threshold):
        return dict.fromkeys(("accuracy", "f1", "precision", "recall"), np.full(len(weights), np.nan))
    accepted = scores >= threshold
    right = weights @ (accepted == labels).astype(np.float64)
    hits = weights @ (accepted & labels).astype(np.float64)
    yes, relevant = weights @ accepted.astype(np.float64), weights @ labels.astype(np.float64)
    return {
        "accuracy": _divide(right, weights.sum(axis=1)),
        "f1": _divide(2 * hits, yes + relevant),
        "precision": _divide(hits, yes),
        "recall": _divide(hits, relevant),
    }


def choose_threshold(
    scores: Scores, labels: Labels, criterion: Criterion, precision: float | None = None
) -> float | None:
    """The threshold (yes from it on) that `criterion` wants, halfway between two scores; nan when a score is nan.

    accuracy, f1: the best one, of equals the highest. precision: the smallest with at least `precision`, that is
    the one with the most yes; None when no threshold has it.
    """
    if np.isnan(scores).any():
        return float("nan")
    levels, hits, misses = _cumulated(scores, labels, whole(len(scores)))
    hits, misses = hits[0], misses[0]
    if criterion == "precision":
        reached = np.flatnonzero(hits / (hits + misses) >= (precision or 0.0))
        return _halfway(levels, int(reached[-1])) if len(reached) else None
    if criterion == "f1":
        return _halfway(levels, int(np.argmax(2 * hits / (hits + misses + hits[-1]))))
    gains = np.concatenate([[0.0], hits - misses])
    return _halfway(levels, int(np.argmax(gains)) - 1)


def precision_recall(
    scores: Scores, labels: Labels
) -> tuple[Float64[np.ndarray, " levels"], Float64[np.ndarray, " levels"], Float64[np.ndarray, " levels"]]:
    """Precision and recall of each distinct score as the threshold, from the highest score on; the scores."""
    levels, hits, misses = _cumulated(scores, labels, whole(len(scores)))
    return np.asarray(hits[0] / (hits[0] + misses[0])), _divide(hits[0], hits[0, -1]), levels


def class_metrics(gold: Codes, predicted: Codes, weights: Weights, classes: int) -> dict[str, Values]:
    """accuracy and macro_f1, the mean F1 of the classes that occur in gold or predictions (scikit-learn's)."""
    right = weights @ (gold == predicted).astype(np.float64)
    hits = _sums(gold, weights * (gold == predicted), classes)
    either = _sums(gold, weights, classes) + _sums(predicted, weights, classes)
    f1 = _divide(2 * hits, either)
    return {
        "accuracy": _divide(right, weights.sum(axis=1)),
        "macro_f1": _divide(f1.sum(axis=1), (either > 0).sum(axis=1).astype(np.float64)),
    }


def baselines(gold: Codes, weights: Weights, classes: int) -> dict[str, Values]:
    """Accuracy of a uniform guess (`chance`), and of always naming the sample's most frequent class (`majority`)."""
    top = int(np.bincount(gold, minlength=classes).argmax())
    shares = _divide(weights @ (gold == top).astype(np.float64), weights.sum(axis=1))
    return {"chance": np.full(len(weights), 1 / classes), "majority": shares}


def confusion(gold: Codes, predicted: Codes, classes: int) -> Int64[np.ndarray, "classes classes"]:
    """How often the class of the row was taken for that of the column."""
    return np.bincount(gold * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def _cumulated(
    scores: Scores, labels: Labels, weights: Weights
) -> tuple[
    Float64[np.ndarray, " levels"], Float64[np.ndarray, "resamples levels"], Float64[np.ndarray, "resamples levels"]
]:
    """Distinct scores from the highest on; weight of the labels 1 and of the labels 0 at or above each."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])
    drawn = weights[:, order]
    hits = np.cumsum(drawn * labels[order], axis=1)[:, ends]
    return ordered[ends], hits, np.cumsum(drawn, axis=1)[:, ends] - hits


def _at_positives(
    scores: Scores, labels: Labels, weights: Weights
) -> tuple[
    Float64[np.ndarray, "resamples levels"],
    Float64[np.ndarray, "resamples levels"],
    Float64[np.ndarray, "resamples levels"],
    Float64[np.ndarray, "resamples levels"],
]:
    """At each distinct score of some label 1: weight of the labels 1 and 0 from it on, and at it alone.

    Nothing else adds to AP and AUC; of many pairs few are positive, and every column here is memory for each resample.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, marked = scores[order], labels[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    kept = np.logical_or.reduceat(marked, starts)
    before, upto = starts[kept], np.r_[starts[1:], len(ordered)][kept]
    drawn = np.take(weights, order, axis=1)  # weights[:, order] is stored by column: sums take longer
    every = _running(drawn)
    drawn *= marked
    right = _running(drawn)
    hits, hits_before = np.take(right, upto, axis=1), np.take(right, before, axis=1)
    misses, misses_before = np.take(every, upto, axis=1) - hits, np.take(every, before, axis=1) - hits_before
    return hits, misses, hits - hits_before, misses - misses_before


def _running(values: Weights) -> Float64[np.ndarray, "resamples sums"]:
    """Sums of the first 0, 1, 2, ... columns."""
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _halfway(levels: Float64[np.ndarray, " levels"], index: int) -> float:
    """Between the level `index`, the last to be accepted, and the next lower one; -1 accepts none.

    The middle of two neighbouring floats may round to the lower one, which would then be accepted too.
    """
    if index < 0:
        return float(np.nextafter(levels[0], np.inf))
    if index + 1 == len(levels):
        return float(levels[index])
    middle = (levels[index] + levels[index + 1]) / 2
    return float(middle if middle > levels[index + 1] else levels[index])


def _sums(codes: Codes, weights: Weights, classes: int) -> Float64[np.ndarray, "resamples classes"]:
    """Weight of each class."""
    return np.stack([np.bincount(codes, row, classes) for row in weights])


def _divide(
    above: Float64[np.ndarray, "*shape"], below: Float64[np.ndarray, "*shape"] | np.float64, otherwise: float = 0.0
) -> Float64[np.ndarray, "*shape"]:
    return np.asarray(np.divide(above, below, out=np.full_like(above, otherwise), where=np.asarray(below) != 0))
