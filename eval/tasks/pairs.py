"""Pair matching: is this pair of texts a match? Yes from a cosine threshold on, which dev data choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64

from dec2vec.errors import UserError
from eval.config import Criterion, PairsConfig, PairsMetric
from eval.metrics.classification import choose_threshold, decision_metrics, ranking_metrics, whole
from eval.tasks.figure import Figure, Scale, too_few
from eval.tasks.pair_files import LabelledPairs, PairColumns, named_test, read_pairs
from eval.tasks.pair_task import PairEvidence, PairTask
from eval.tasks.task import Task, TaskVectors, weighted_figures

RANKING: tuple[PairsMetric, ...] = ("ap", "auc")
"""Metrics without a threshold."""


@dataclass(frozen=True, eq=False)
class PairsTask(PairTask[LabelledPairs, PairEvidence]):
    """Test pairs, and perhaps dev pairs to choose the threshold on."""

    kind: ClassVar[str] = "pairs"
    criterion: Criterion = "accuracy"
    precision: float | None = None
    has_threshold: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_criterion(self.criterion, self.precision)
        super().__post_init__()
        if self.dev_pairs is None and self.metric not in RANKING:
            raise UserError(f"{self.name}: {self.metric} needs a threshold; give dev pairs, or use metric ap or auc")

    def threshold(self, dev: TaskVectors) -> float:
        """Chosen from dev vectors and dev labels alone; inf (nothing is a match) if no threshold is precise enough."""
        return self._threshold(self.known_dev_pairs.cosines(dev))

    def dev_score(self, vectors: TaskVectors) -> float:
        """The main metric on dev, at dev's own threshold."""
        return self.dev_scores(vectors)[self.metric]

    def dev_scores(self, vectors: TaskVectors) -> dict[str, float]:
        """Every metric on dev, at dev's own threshold."""
        pairs = self.known_dev_pairs
        cosines = pairs.cosines(vectors)
        values = _metrics(cosines, pairs.labels, whole(len(pairs)), self._threshold(cosines))
        return {name: float(value[0]) for name, value in values.items()}

    @property
    def dev_metrics(self) -> tuple[str, ...]:
        return ("accuracy", "f1", "precision", "recall", "ap", "auc")

    def led_by(self, metric: str) -> Task[PairEvidence]:
        """Without dev pairs there is no threshold, and so no other metric than ap and auc."""
        return self if self.dev_pairs is None and metric not in RANKING else super().led_by(metric)

    def evidence_from_scores(
        self, dev: Float64[np.ndarray, " dev_pairs"] | None, test: Float64[np.ndarray, " test_pairs"]
    ) -> PairEvidence:
        """The threshold comes from the scores of dev."""
        threshold = None if dev is None else self._threshold(dev)
        return PairEvidence(test, self.test_pairs.labels, threshold)

    def figures(self, evidence: PairEvidence, resamples: int, seed: int) -> list[Figure]:
        """The main metric, then the rest of accuracy, f1, precision, recall, ap and auc; without dev ap and auc."""
        metrics = partial(_metrics, evidence.cosines, evidence.labels, threshold=evidence.threshold)
        figures = weighted_figures(metrics, self.metric, len(evidence.labels), resamples, self.seed_of(seed))
        return [_with_interval(figure, evidence) for figure in figures]

    def _threshold(self, scores: Float64[np.ndarray, " dev_pairs"]) -> float:
        threshold = choose_threshold(scores, self.known_dev_pairs.labels, self.criterion, self.precision)
        return float("inf") if threshold is None else threshold


def load_pairs(config: PairsConfig, *, is_dev: bool = False) -> PairsTask:
    """The files of `config`, read and checked. With `is_dev`, only those of dev, or of test where there are none."""
    if not config.dev and (config.dev_only or config.dev_limit is not None):
        raise UserError(f"{config.test}: dev_only and dev_limit select rows of dev; give dev, or remove them")
    columns = PairColumns(config.sentence1, config.sentence2, config.label, config.positive_from)
    read = partial(read_pairs, columns=columns, fix="correct it, or say with positive_from which scores are matches")
    dev = read(config.dev, only=config.dev_only, limit=config.dev_limit) if config.dev else None
    if is_dev:
        dev = dev or read(named_test("pairs", config.test))
    test = dev if is_dev and dev is not None else read(named_test("pairs", config.test))
    return PairsTask(config.name or test.name, config.metric, test, dev, config.criterion, config.precision)


def check_criterion(criterion: Criterion, precision: float | None) -> None:
    """A wanted precision belongs to criterion precision, and to no other."""
    if criterion == "precision" and precision is None:
        raise UserError("criterion precision: set precision, such as 0.9")
    if criterion != "precision" and precision is not None:
        raise UserError(f"precision {precision:g} is for criterion precision, not {criterion}; remove one of them")


def _with_interval(figure: Figure, evidence: PairEvidence) -> Figure:
    """Accuracy counts all pairs, precision those that were accepted, the others as many as the rarer label has.

    Shares of yes and no (accuracy, recall, precision) and F1, which is nearly one, have the normal quantile: Student's
    made the intervals of recall and F1 too wide (98 % with 25 positives).
    """
    size, reason = rarer_label(evidence.labels)
    if figure.metric in RANKING:
        scale: Scale = "area" if figure.metric == "auc" else "share"
        return replace(figure, scale=scale, size=size).without_interval(reason)
    figure, accepted = replace(figure, scale="count"), evidence.cosines >= (evidence.threshold or 0.0)
    if figure.metric == "accuracy":
        right = (accepted == evidence.labels).astype(np.float64)
        return replace(figure, units=right).without_interval(too_few(figure.n, "pairs"))
    if figure.metric == "precision":
        size = int(np.count_nonzero(accepted))
        reason = too_few(size, "accepted pairs")
    if figure.metric == "recall":
        figure = replace(figure, units=accepted[evidence.labels].astype(np.float64))
    return replace(figure, size=size).without_interval(reason)


def rarer_label(labels: Bool[np.ndarray, " pairs"]) -> tuple[int, str]:
    """How often the rarer of the two labels occurs, and why that is too little for an interval."""
    positives = int(np.count_nonzero(labels))
    negatives = len(labels) - positives
    if positives <= negatives:
        return positives, too_few(positives, "positive pairs")
    return negatives, too_few(negatives, "negative pairs")


def _metrics(
    cosines: Float64[np.ndarray, " pairs"],
    labels: Bool[np.ndarray, " pairs"],
    weights: Float64[np.ndarray, "resamples pairs"],
    threshold: float | None,
) -> dict[str, Float64[np.ndarray, " resamples"]]:
    decided = {} if threshold is None else decision_metrics(cosines, labels, weights, threshold)
    return {**decided, **ranking_metrics(cosines, labels, weights)}
