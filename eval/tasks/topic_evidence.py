"""What a topic classifier decided on the test texts: figures, confusion matrix, margins of the wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float32, Float64, Int64

from eval.metrics.classification import baselines, class_metrics, confusion
from eval.tasks.figure import Figure, too_few
from eval.tasks.labelled import LabelledTexts
from eval.tasks.task import Evidence, weighted_figures

FEWEST_A_CLASS = 5
"""Texts a class below which macro-F1 has no interval."""
MOST_BIAS = 1.0
"""Standard deviations that the interval of macro-F1 may be moved by."""


@dataclass(frozen=True)
class Wrong:
    """A text taken for another class; margins in units of the scores (cosine, share of votes, probability)."""

    text: str
    gold: str
    predicted: str
    lead: float
    """Best score minus the second best: how sure the mistake was."""
    deficit: float
    """True class's score minus the best other one, 0 or less: how far the truth was behind."""


@dataclass(frozen=True, eq=False)
class TopicEvidence(Evidence):
    """Scores of every test text for every class, with the true class."""

    classes: list[str]
    texts: list[str]
    gold: Int64[np.ndarray, " texts"]
    scores: Float64[np.ndarray, "texts classes"]
    vectors: Float32[np.ndarray, "texts dim"]
    """Of the texts, for pictures."""
    setting: Mapping[str, int | float] = field(default_factory=dict)
    """The k or C that was chosen on dev."""

    @classmethod
    def from_rows(
        cls,
        classes: list[str],
        rows: LabelledTexts,
        scores: Float64[np.ndarray, "texts classes"],
        vectors: Float32[np.ndarray, "texts dim"],
        setting: Mapping[str, int | float] | None = None,
    ) -> TopicEvidence:
        return cls(classes, rows.texts, rows.codes(classes), scores, vectors, setting or {})

    def at(self, rows: Int64[np.ndarray, " kept"]) -> TopicEvidence | None:
        """Some of the texts: nothing is trained or decided anew."""
        texts = [self.texts[row] for row in rows]
        scores, vectors = self.scores[rows], self.vectors[rows]
        return replace(self, texts=texts, gold=self.gold[rows], scores=scores, vectors=vectors)

    @property
    def chosen(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self.setting.items())

    @cached_property
    def predicted(self) -> Int64[np.ndarray, " texts"]:
        """Of equal scores the first class."""
        return np.asarray(self.scores.argmax(axis=1))

    @property
    def is_finite(self) -> bool:
        """Whether no score is nan."""
        return not bool(np.isnan(self.scores).any())

    @property
    def confusion(self) -> Int64[np.ndarray, "classes classes"]:
        """Rows are true classes, columns the predicted ones."""
        return confusion(self.gold, self.predicted, len(self.classes))

    def wrong(self) -> list[Wrong]:
        """The texts taken for another class, the surest mistakes first."""
        highest = np.sort(self.scores, axis=1)
        leads = highest[:, -1] - highest[:, -2]
        deficits = self.scores[np.arange(len(self.gold)), self.gold] - highest[:, -1]
        rows = np.flatnonzero(self.gold != self.predicted)
        return [
            Wrong(
                text=self.texts[row],
                gold=self.classes[self.gold[row]],
                predicted=self.classes[self.predicted[row]],
                lead=float(leads[row]),
                deficit=float(deficits[row]),
            )
            for row in rows[np.argsort(-leads[rows], kind="stable")]
        ]


def topic_figures(evidence: TopicEvidence, metric: str, resamples: int, seed: int) -> list[Figure]:
    """accuracy and macro_f1, the main one first, then chance and majority; nan scores give nan figures."""
    figures = weighted_figures(partial(_metrics, evidence), metric, len(evidence.gold), resamples, seed)
    return [_with_interval(figure, evidence) for figure in figures]


def _with_interval(figure: Figure, evidence: TopicEvidence) -> Figure:
    if figure.metric == "macro_f1":
        return _with_bias(figure, evidence)
    if figure.metric == "accuracy":
        right = (evidence.gold == evidence.predicted).astype(np.float64)
        return replace(figure, scale="count", units=right).without_interval(too_few(figure.n, "texts"))
    return figure.without_interval("the same for every system")


def _with_bias(figure: Figure, evidence: TopicEvidence) -> Figure:
    """Of few texts a class's F1 is too low on average; by as much as the resamples are lower, its interval is moved.

    Not where that is much, nor where a class has hardly any text. Differences of two systems need neither. Its quantile
    counts what the classes' variances, about 1 / texts each, are known by (Satterthwaite): the rarest count most.
    """
    counts = np.bincount(evidence.gold)
    present = counts[counts > 0].astype(np.float64)
    size = 1 + int((1 / present).sum() ** 2 / (1 / present**3).sum())
    figure = replace(figure, scale="share", size=size).without_interval(too_few(figure.n, "texts"))
    bias, deviation = float(figure.resampled.mean()) - figure.value, float(figure.resampled.std())
    rare = int(np.count_nonzero(present < FEWEST_A_CLASS))
    reason = f"{rare} of {len(present)} classes with fewer than {FEWEST_A_CLASS} texts" if rare else ""
    if not reason and abs(bias) > MOST_BIAS * deviation:
        reason = f"too few texts a class: biased by {abs(bias) / deviation:.1f} of its standard deviation"
    return replace(figure, bias=bias, no_interval=figure.no_interval or reason)


def _metrics(
    evidence: TopicEvidence, weights: Float64[np.ndarray, "resamples texts"]
) -> dict[str, Float64[np.ndarray, " resamples"]]:
    classes = len(evidence.classes)
    values = class_metrics(evidence.gold, evidence.predicted, weights, classes)
    if not evidence.is_finite:
        values = {name: np.full(len(weights), np.nan) for name in values}
    return {**values, **baselines(evidence.gold, weights, classes)}
