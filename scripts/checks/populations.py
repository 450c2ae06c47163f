"""Populations whose truth is known, and what the product's own functions measure on samples of them.

Each case draws three systems on the same items: ours, a rival with another true figure, and an equal that is as good as
ours. The truth is exact, or that of a million items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from jaxtyping import Bool, Float64, Int64

from eval.metrics.classification import class_metrics, decision_metrics, ranking_metrics, whole
from eval.tasks.figure import Figure
from eval.tasks.pair_files import LabelledPairs
from eval.tasks.pair_task import PairEvidence
from eval.tasks.pairs import PairsTask
from eval.tasks.retrieval import METRICS, RetrievalEvidence, RetrievalTask
from eval.tasks.retrieval_files import Judged
from eval.tasks.sts import GradedPairs, SimilarityEvidence, StsTask
from eval.tasks.task import Texts
from eval.tasks.topic_evidence import TopicEvidence, topic_figures

RESAMPLES = 400
POPULATION = 1_000_000
Generator = np.random.Generator


@dataclass(frozen=True, eq=False)
class Trial:
    """What one sample gave. `gap` is ours minus the rival, `null` ours minus the equal.

    `before` is the figure of ours by the resamples of 2026-11-29, where they have changed since.
    """

    ours: Figure
    gap: Figure | None = None
    null: Figure | None = None
    before: Figure | None = None

    @classmethod
    def of(cls, ours: Figure, rival: Figure | None, equal: Figure, before: Figure | None = None) -> Trial:
        return cls(ours, None if rival is None else ours.minus(rival), ours.minus(equal), before)


@dataclass(frozen=True, eq=False)
class Case:
    """`truth` is that of ours, and of ours minus the rival; None: the mean of what the trials measure."""

    figure: str
    sample: str
    """Sizes and counts, for the table."""
    draw: Callable[[Generator, int], Trial]
    truth: Callable[[], tuple[float, float]] | None = None
    trials: int = 400


def named(figures: Sequence[Figure], metric: str) -> Figure:
    return next(figure for figure in figures if figure.metric == metric)


def graded(name: str, gold: Float64[np.ndarray, " pairs"]) -> GradedPairs:
    index = np.arange(len(gold), dtype=np.int64)
    return GradedPairs(name, Texts([name] * len(gold), []), index, index, gold, np.zeros_like(index), [""])


def spearman_figure(name: str, gold: Float64[np.ndarray, " pairs"], scores: np.ndarray, seed: int) -> Figure:
    pairs = graded(name, gold)
    evidence = SimilarityEvidence(pairs, {"cosine": scores})
    return StsTask(name, "spearman_all", pairs).figures(evidence, RESAMPLES, seed)[0]


def noisy(gold: Float64[np.ndarray, " pairs"], rho: float, draws: Generator) -> Float64[np.ndarray, " pairs"]:
    """Scores that correlate with standard normal gold scores."""
    return np.asarray(rho * gold + np.sqrt(1 - rho**2) * draws.standard_normal(len(gold)))


def spearman_trial(n: int, rho: float, draws: Generator, seed: int) -> Trial:
    gold = draws.standard_normal(n)
    scores = noisy(gold, rho, draws), noisy(gold, rho - 0.1, draws), noisy(gold, rho, draws)
    return Trial.of(*(spearman_figure("sts", gold, each, seed) for each in scores))


def spearman_truth(rho: float) -> tuple[float, float]:
    """Of two normal variables (Kruskal 1958)."""
    one, other = (float(6 / np.pi * np.arcsin(each / 2)) for each in (rho, rho - 0.1))
    return one, one - other


def average_trial(sizes: Sequence[int], rho: float, draws: Generator, seed: int) -> Trial:
    """Several tests, each sorted by its gold scores as many published files are."""
    columns: list[list[Figure]] = [[], [], [], []]
    for number, n in enumerate(sizes):
        gold = np.sort(draws.standard_normal(n))
        scores = [noisy(gold, rho, draws), noisy(gold, rho - 0.1, draws), noisy(gold, rho, draws)]
        names = [f"test {number}"] * 3 + ["one name"]
        for column, name, each in zip(columns, names, [*scores, scores[0]], strict=True):
            column.append(spearman_figure(name, gold, each, seed))
    return Trial.of(*(Figure.mean(column) for column in columns))


def two_classes(n: int, share: float, lead: float, draws: Generator) -> tuple[Bool[np.ndarray, " n"], list[np.ndarray]]:
    """Labels, and the scores of ours, the rival and the equal, which lead by `lead` where the label is yes."""
    labels = draws.random(n) < share
    common = draws.standard_normal(n)
    noise = [0.6 * common + 0.8 * draws.standard_normal(n) for _ in range(3)]
    return labels, [each + labels * step for each, step in zip(noise, (lead, lead + 0.3, lead), strict=True)]


def pairs_trial(metric: str, n: int, share: float, lead: float, draws: Generator, seed: int) -> Trial:
    """A yes from half the lead on."""
    labels, scores = two_classes(n, share, lead, draws)
    empty = LabelledPairs.from_texts("pairs", ["a", "b"], ["c", "d"], [True, False], two_sided=False)
    task = PairsTask("pairs", "ap", empty)
    found = [task.figures(PairEvidence(each, labels, lead / 2), RESAMPLES, seed) for each in scores]
    return Trial.of(*(named(figures, metric) for figures in found))


@cache
def pairs_truth(metric: str, share: float, lead: float) -> tuple[float, float]:
    labels, scores = two_classes(POPULATION, share, lead, np.random.default_rng(1))
    measure = ranking_metrics if metric in ("ap", "auc") else partial(decision_metrics, threshold=lead / 2)
    one, other = (float(measure(each, labels, whole(POPULATION))[metric][0]) for each in scores[:2])
    return one, one - other


Decisions = tuple[Int64[np.ndarray, " n"], list[Int64[np.ndarray, " n"]]]


def decisions(counts: tuple[float, ...], n: int, draws: Generator) -> Decisions:
    """Classes as frequent as `counts`, each with a skill of its own; a wrong answer is a class by its frequency."""
    shares = np.array(counts) / sum(counts)
    classes, skills = len(counts), np.random.default_rng(2)
    skill = skills.uniform(0.4, 0.9, classes)
    better = np.clip(skill + skills.normal(0.02, 0.1, classes), 0.05, 0.98)
    gold = draws.choice(classes, n, p=shares)
    common, answers = draws.random(n), []
    for chance in (skill, better, skill):
        luck = np.where(draws.random(n) < 0.6, common, draws.random(n))
        answers.append(np.where(luck < chance[gold], gold, draws.choice(classes, n, p=shares)))
    return gold, answers


def topics_trial(metric: str, counts: tuple[float, ...], n: int, draws: Generator, seed: int) -> Trial:
    gold, answers = decisions(counts, n, draws)
    names, nothing = [str(code) for code in range(len(counts))], np.zeros((n, 1), dtype=np.float32)
    found = []
    for each in answers:
        scores = np.zeros((n, len(counts)))
        scores[np.arange(n), each] = 1
        evidence = TopicEvidence(names, [""] * n, gold, scores, nothing)
        found.append(named(topic_figures(evidence, metric, RESAMPLES, seed), metric))
    return Trial.of(*found)


@cache
def topics_truth(metric: str, counts: tuple[float, ...]) -> tuple[float, float]:
    gold, answers = decisions(counts, POPULATION, np.random.default_rng(3))
    one, other = (float(class_metrics(gold, each, whole(POPULATION), len(counts))[metric][0]) for each in answers[:2])
    return one, one - other


Queries = Callable[[int, Generator], Float64[np.ndarray, "queries 3"]]


def ndcg(lost: float, perfect: float) -> Queries:
    """nDCG-like values: some queries are lost, some perfect, the others in between; systems mostly agree."""

    def draw(n: int, draws: Generator) -> Float64[np.ndarray, "queries 3"]:
        common = draws.random(n)
        columns = []
        for step in (0.0, 0.05, 0.0):
            luck = np.where(draws.random(n) < 0.6, common, draws.random(n)) + step * (1 - lost - perfect)
            between = draws.beta(2, 2, n)
            columns.append(np.where(luck < lost, 0.0, np.where(luck > 1 - perfect, 1.0, between)))
        return np.stack(columns, axis=1)

    return draw


def retrieval_trial(values: Queries, n: int, draws: Generator, seed: int) -> Trial:
    task = RetrievalTask("search", METRICS[0], {}, Judged([], [], {}, 0))
    drawn = values(n, draws)
    whole_rows = [np.repeat(drawn[:, [column]], len(METRICS), axis=1) for column in range(3)]
    return Trial.of(*(task.figures(RetrievalEvidence(rows), RESAMPLES, seed)[0] for rows in whole_rows))


def retrieval_truth(values: Queries) -> tuple[float, float]:
    one, other, _ = values(POPULATION, np.random.default_rng(4)).mean(axis=0)
    return float(one), float(one - other)


def ranking_cases() -> list[Case]:
    """Similarity and pair matching."""
    cases = [
        Case(f"Spearman, {rho}", f"{n} pairs", partial(spearman_trial, n, rho), partial(spearman_truth, rho))
        for rho in (0.3, 0.8)
        for n in (20, 50, 240, 1000)
    ]
    for sizes in ((300,) * 4, (50,) * 7):
        sample = f"{len(sizes)} tests of {sizes[0]} pairs, sorted"
        cases.append(
            Case("average of Spearman", sample, partial(average_trial, sizes, 0.7), partial(spearman_truth, 0.7))
        )
    for metric in ("ap", "auc", "f1", "precision", "recall", "accuracy"):
        for share, lead in ((0.1, 1.5), (0.5, 1.5), (0.1, 2.5)):
            truth = partial(pairs_truth, metric, share, lead)
            for positives in (25, 100):
                n = int(positives / share)
                draw = partial(pairs_trial, metric, n, share, lead)
                cases.append(Case(NAMES[metric], f"{n} pairs, about {positives} positive, lead {lead}", draw, truth))
    return cases


NAMES: Mapping[str, str] = {
    "ap": "AP",
    "auc": "AUC",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy of pairs",
}
