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

RESAMPLES = 300
POPULATION = 1_000_000
MANY_POSITIVES = 100
"""Of so many every interval is far from the edges of what it may cover, and fewer samples will do."""
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


Trials = Mapping[str, Trial]
"""One sample's, by metric."""


@dataclass(frozen=True, eq=False)
class Case:
    """`truth` of a metric is that of ours, and of ours minus the rival; None: the mean of what the trials measure."""

    titles: Mapping[str, str]
    """Metric -> the figure's name in the table."""
    sample: str
    """Sizes and counts, for the table."""
    draw: Callable[[Generator, int], Trials]
    truth: Callable[[str], tuple[float, float]] | None = None
    trials: int = 1000


def by_metric(titles: Mapping[str, str], found: Sequence[Sequence[Figure]]) -> Trials:
    """Of the figures of ours, of the rival and of the equal."""
    return {metric: Trial.of(*(named(figures, metric) for figures in found)) for metric in titles}


def named(figures: Sequence[Figure], metric: str) -> Figure:
    return next(figure for figure in figures if figure.metric == metric)


def graded(name: str, gold: Float64[np.ndarray, " pairs"]) -> GradedPairs:
    index = np.arange(len(gold), dtype=np.int64)
    return GradedPairs(name, Texts([name] * len(gold), []), index, index, gold, np.zeros_like(index), [""])


def spearman_figures(
    name: str, gold: Float64[np.ndarray, " pairs"], scores: Sequence[np.ndarray], seed: int
) -> list[Figure]:
    """Of several systems on the same pairs."""
    pairs = graded(name, gold)
    task = StsTask(name, "spearman_all", pairs)
    return [task.figures(SimilarityEvidence(pairs, {"cosine": each}), RESAMPLES, seed)[0] for each in scores]


def noisy(gold: Float64[np.ndarray, " pairs"], rho: float, draws: Generator) -> Float64[np.ndarray, " pairs"]:
    """Scores that correlate with standard normal gold scores."""
    return np.asarray(rho * gold + np.sqrt(1 - rho**2) * draws.standard_normal(len(gold)))


def spearman_trial(n: int, rho: float, draws: Generator, seed: int) -> Trials:
    gold = draws.standard_normal(n)
    scores = noisy(gold, rho, draws), noisy(gold, rho - 0.1, draws), noisy(gold, rho, draws)
    return {"": Trial.of(*spearman_figures("sts", gold, scores, seed))}


def spearman_truth(rho: float, _: str) -> tuple[float, float]:
    """Of two normal variables (Kruskal 1958)."""
    one, other = (float(6 / np.pi * np.arcsin(each / 2)) for each in (rho, rho - 0.1))
    return one, one - other


def average_trial(sizes: Sequence[int], rho: float, draws: Generator, seed: int) -> Trials:
    """Several tests, each sorted by its gold scores as many published files are."""
    found, before = [], []
    for number, n in enumerate(sizes):
        gold = np.sort(draws.standard_normal(n))
        scores = [noisy(gold, rho, draws), noisy(gold, rho - 0.1, draws), noisy(gold, rho, draws)]
        found.append(spearman_figures(f"test {number}", gold, scores, seed))
        before += spearman_figures("one name for all", gold, scores[:1], seed)
    ours, rival, equal = (Figure.mean(column) for column in zip(*found, strict=True))
    return {"": Trial.of(ours, rival, equal, before=Figure.mean(before))}


def two_classes(n: int, share: float, lead: float, draws: Generator) -> tuple[Bool[np.ndarray, " n"], list[np.ndarray]]:
    """Labels, and the scores of ours, the rival and the equal, which lead by `lead` where the label is yes."""
    labels = draws.random(n) < share
    common = draws.standard_normal(n)
    noise = [0.6 * common + 0.8 * draws.standard_normal(n) for _ in range(3)]
    return labels, [each + labels * step for each, step in zip(noise, (lead, lead + 0.3, lead), strict=True)]


def pairs_trial(n: int, share: float, lead: float, draws: Generator, seed: int) -> Trials:
    """A yes from half the lead on."""
    labels, scores = two_classes(n, share, lead, draws)
    empty = LabelledPairs.from_texts("pairs", ["a", "b"], ["c", "d"], [True, False], two_sided=False)
    task = PairsTask("pairs", "ap", empty)
    found = [task.figures(PairEvidence(each, labels, lead / 2), RESAMPLES, seed) for each in scores]
    return by_metric(PAIRS, found)


@cache
def pairs_truth(share: float, lead: float, metric: str) -> tuple[float, float]:
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


def topics_trial(counts: tuple[float, ...], n: int, draws: Generator, seed: int) -> Trials:
    gold, answers = decisions(counts, n, draws)
    names, nothing = [str(code) for code in range(len(counts))], np.zeros((n, 1), dtype=np.float32)
    found = []
    for each in answers:
        scores = np.zeros((n, len(counts)))
        scores[np.arange(n), each] = 1
        evidence = TopicEvidence(names, [""] * n, gold, scores, nothing)
        found.append(topic_figures(evidence, "accuracy", RESAMPLES, seed))
    return by_metric(TOPICS, found)


@cache
def topics_truth(counts: tuple[float, ...], metric: str) -> tuple[float, float]:
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


def retrieval_trial(values: Queries, n: int, draws: Generator, seed: int) -> Trials:
    task = RetrievalTask("search", METRICS[0], {}, Judged([], [], {}, 0))
    drawn = values(n, draws)
    whole_rows = [np.repeat(drawn[:, [column]], len(METRICS), axis=1) for column in range(3)]
    return by_metric({METRICS[0]: ""}, [task.figures(RetrievalEvidence(rows), RESAMPLES, seed) for rows in whole_rows])


def retrieval_truth(values: Queries, _: str) -> tuple[float, float]:
    one, other, _ = values(POPULATION, np.random.default_rng(4)).mean(axis=0)
    return float(one), float(one - other)


def ranking_cases() -> list[Case]:
    """Similarity and pair matching."""
    cases = [
        Case({"": f"Spearman, {rho}"}, f"{n} pairs", partial(spearman_trial, n, rho), partial(spearman_truth, rho))
        for rho in (0.3, 0.8)
        for n in (20, 50, 240, 1000)
    ]
    for sizes in ((300,) * 4, (50,) * 7):
        sample = f"{len(sizes)} tests of {sizes[0]} pairs, sorted"
        draw = partial(average_trial, sizes, 0.7)
        cases.append(Case({"": "average of Spearman"}, sample, draw, partial(spearman_truth, 0.7)))
    for share, lead in ((0.1, 1.5), (0.5, 1.5), (0.1, 2.5)):
        for positives in (25, 100):
            n = int(positives / share)
            draw, truth = partial(pairs_trial, n, share, lead), partial(pairs_truth, share, lead)
            trials = 1000 if positives < MANY_POSITIVES else 400
            cases.append(Case(PAIRS, f"{n} pairs, about {positives} positive, {SKILL[lead]}", draw, truth, trials))
    return cases


PAIRS: Mapping[str, str] = {
    "ap": "AP",
    "auc": "AUC",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "accuracy of pairs",
}
SKILL = {1.5: "AUC 86 %", 2.5: "AUC 96 %"}
TOPICS: Mapping[str, str] = {"macro_f1": "macro-F1", "accuracy": "accuracy of texts"}
