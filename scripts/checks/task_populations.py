"""The same for tasks of texts and of vectors: classes, clusters, retrieval, gap, isotropy, and seeds of a run."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
from jaxtyping import Float64
from populations import (
    RESAMPLES,
    TOPICS,
    Case,
    Generator,
    Queries,
    Trial,
    Trials,
    by_metric,
    named,
    ndcg,
    retrieval_trial,
    retrieval_truth,
    topics_trial,
    topics_truth,
)
from scipy.stats import norm

from eval.metrics import isotropy
from eval.metrics.resampling import resampled_means
from eval.tasks.clustering import ClusterEvidence, ClusteringTask
from eval.tasks.figure import Figure
from eval.tasks.gap import GapTask, independent_groups, with_dealt_answers
from eval.tasks.isotropy import IsotropyEvidence, IsotropyTask
from eval.tasks.labelled import LabelledTexts
from eval.tasks.pair_task import PairEvidence
from eval.tasks.retrieval import METRICS

IFLYTEK = (25.0,) * 40 + (16.0,) * 25 + (8.0,) * 15 + (3.0,) * 18
"""As skewed as IFLYTEK's public test: 98 classes, a quarter of them with a handful of texts."""


AT_THE_EDGE = 3080
"""Texts of 77 classes: their bias is nearly too large, and a few samples tell nothing."""


def zipf(classes: int) -> tuple[float, ...]:
    return tuple(1.0 / rank for rank in range(1, classes + 1))


def topic_cases() -> list[Case]:
    shapes = {
        "2 equal classes": ((1.0, 1.0), (20, 50, 300)),
        "3 classes, 70, 28 and 2 %": ((70.0, 28.0, 2.0), (500, 1500)),
        "20 equal classes": ((1.0,) * 20, (200, 1000)),
        "20 classes by Zipf's law": (zipf(20), (200, 1000)),
        "77 equal classes": ((1.0,) * 77, (1540, 3080)),
        "98 classes like IFLYTEK's": (IFLYTEK, (1600,)),
    }
    cases = []
    for shape, (counts, sizes) in shapes.items():
        for n in sizes:
            draw, truth = partial(topics_trial, counts, n), partial(topics_truth, counts)
            cases.append(
                Case(TOPICS, f"{n} texts, {shape}", draw, truth, 1000 if n < 1000 else 800 if n == AT_THE_EDGE else 300)
            )
    return cases


def retrieval_cases() -> list[Case]:
    kinds: dict[str, tuple[Queries, tuple[int, ...]]] = {
        "half of the queries lost": (ndcg(0.5, 0.1), (20, 50, 300)),
        "85 % of the queries lost": (ndcg(0.85, 0.01), (50, 100, 300)),
        "90 % of the queries perfect": (ndcg(0.02, 0.9), (50, 100, 300)),
    }
    return [
        Case(
            {METRICS[0]: "mean over queries"},
            f"{n} queries, {kind}",
            partial(retrieval_trial, values, n),
            partial(retrieval_truth, values),
            1000 if n < 100 else 500,
        )
        for kind, (values, sizes) in kinds.items()
        for n in sizes
    ]


def cluster_trial(n: int, k: int, apart: float, draws: Generator, seed: int) -> Trials:
    """Clouds about k centres. The rival sees them through noise; an equal system with other noise is not compared."""
    fixed = np.random.default_rng((n, k))
    centres, turn = fixed.standard_normal((k, 16)) * apart / 2, fixed.standard_normal((16, 16)) / 4
    labels = draws.integers(0, k, n)
    ours = centres[labels] + draws.standard_normal((n, 16))
    noises = [ours @ turn + draws.standard_normal((n, 16)) for _ in range(2)]
    data = LabelledTexts("clouds", [""] * n, [str(label) for label in labels])
    task = ClusteringTask("clouds", "V-measure", data)
    evidences = [ClusterEvidence(data, rows.astype(np.float32)) for rows in (noises[0], ours, noises[1])]
    return by_metric(CLUSTERS, [task.figures(evidence, RESAMPLES, seed) for evidence in evidences])


GAP = {"gap": 1.0, "relevant": 1.0, "irrelevant": 0.0, "auc": float(norm.cdf(1 / np.sqrt(2 * (1.4 + 0.36))))}


def gap_trial(n: int, draws: Generator, seed: int) -> Trials:
    """Questions and answers that are near to everything, or far, as those of real encoders are."""
    pairs = with_dealt_answers("gap", [f"q{row}" for row in range(n)], [f"a{row}" for row in range(n)], n)
    task, groups = GapTask("gap", "gap", pairs), independent_groups(pairs.left, pairs.right)
    question, answer = (np.sqrt(0.7) * draws.standard_normal(n) for _ in range(2))
    shared = pairs.labels + question[pairs.left] + answer[pairs.right]
    found = []
    for _ in range(2):
        scores = shared + 0.6 * draws.standard_normal(len(shared))
        found.append(task.figures(PairEvidence(scores, pairs.labels, groups=groups), RESAMPLES, seed))
    return {metric: Trial.of(named(found[0], metric), None, named(found[1], metric)) for metric in GAP}


LAMBDAS = np.arange(1, 65) ** -0.25
CENTRE = np.full(64, 0.3)


def cloud(n: int, draws: Generator) -> Float64[np.ndarray, "n dim"]:
    return np.asarray(CENTRE + draws.standard_normal((n, 64)) * LAMBDAS)


@cache
def space_truth() -> dict[str, float]:
    draws = np.random.default_rng(5)
    rows = cloud(200_000, draws)
    spectrum = isotropy.spectrum(rows)
    kernels = [np.exp(isotropy.uniformity(cloud(2000, draws))) for _ in range(20)]
    return {
        "mean cosine": isotropy.mean_cosine(rows),
        "first component": float(isotropy.first_share(spectrum.variances)),
        "IsoScore": float(isotropy.isoscore(spectrum.variances)),
        "effective rank": float(isotropy.effective_rank(spectrum.variances)),
        "uniformity": float(np.log(np.mean(kernels))),
        "alignment": float(isotropy.squared_distances(*_pairs_of(rows, draws)).mean()),
    }


def _pairs_of(rows: Float64[np.ndarray, "n dim"], draws: Generator) -> tuple[np.ndarray, np.ndarray]:
    return rows, rows + 0.5 * draws.standard_normal(rows.shape)


def space_trial(n: int, draws: Generator, seed: int) -> Trials:
    """n texts for what is of texts, and n pairs of them with their like for the alignment."""
    one, other = _pairs_of(cloud(n, draws), draws)
    nothing, left = np.zeros(0, dtype=np.int64), np.arange(n, dtype=np.int64)
    texts = IsotropyTask("space", "IsoScore", [""] * n, nothing, nothing)
    figures = texts.figures(IsotropyEvidence(one.astype(np.float32)), RESAMPLES // 2, seed)
    rows = np.concatenate([one, other]).astype(np.float32)
    pairs = IsotropyTask("space", "IsoScore", [""] * len(rows), left, left + n, limit=5)
    figures.append(pairs.figures(IsotropyEvidence(rows), RESAMPLES // 2, seed)[-1])
    return {metric: Trial(named(figures, metric)) for metric in SPACE}


def seeds_trial(runs: int, between: float, n: int, draws: Generator, seed: int) -> Trials:
    """Mean accuracy of several runs minus an untuned system: texts have a difficulty that all of them share.

    `between`: how much better or worse a run gets by its seed. `null`: a recipe that is as good as the untuned system.
    """
    hardness = draws.standard_normal(n)

    def right(level: float) -> Figure:
        return mean_figure((level + hardness + draws.standard_normal(n) > 0).astype(np.float64), seed)

    untuned = right(UNTUNED)
    moves = between * draws.standard_normal((2, runs))
    tuned, equal = ([right(level + move) for move in row] for level, row in zip(_levels(between), moves, strict=True))
    texts_only = Figure.mean(tuned).minus(untuned)
    ours, null = (Figure.over_seeds(members).minus(untuned) for members in (tuned, equal))
    return {"": Trial(ours, None, null, texts_only)}


UNTUNED, TUNED = 0.5, 0.8


def _levels(between: float) -> tuple[float, float]:
    """Of the tuned recipe, and of the one that is as good as the untuned system on average over seeds."""
    return TUNED, UNTUNED * float(np.sqrt((2 + between**2) / 2))


def seeds_truth(between: float, _: str) -> tuple[float, float]:
    gap = norm.cdf(TUNED / np.sqrt(2 + between**2)) - norm.cdf(UNTUNED / np.sqrt(2))
    return float(gap), float("nan")


def mean_figure(values: Float64[np.ndarray, " texts"], seed: int) -> Figure:
    drawn = resampled_means(values[:, None], RESAMPLES, seed)[:, 0]
    return Figure("accuracy", float(values.mean()), drawn, len(values), scale="share", units=values)


def space_cases() -> list[Case]:
    """Vectors: clusters, gap, isotropy."""
    cases = [
        Case(CLUSTERS, f"{n} texts, {k} classes, {apart} apart", partial(cluster_trial, n, k, apart), None, 120)
        for n, k, apart in ((200, 5, 1.8), (500, 10, 2.0), (500, 10, 1.2), (300, 30, 2.8))
    ]
    gaps = {metric: f"gap: {metric}" for metric in GAP}
    cases += [Case(gaps, f"{n} questions", partial(gap_trial, n), _gap_truth) for n in (50, 200)]
    cases += [Case(SPACE, f"{n} texts, 64 dimensions", partial(space_trial, n), _space, 300) for n in (100, 400)]
    return cases


def seed_cases() -> list[Case]:
    """Differences over several runs of one recipe."""
    title = {"": "mean of seeds minus untuned"}
    return [
        Case(title, f"{runs} runs, {label}", partial(seeds_trial, runs, between, 500), partial(seeds_truth, between))
        for runs in (2, 3, 5)
        for between, label in ((0.02, "alike"), (0.1, "unlike as texts are"), (0.4, "very unlike"))
    ]


CLUSTERS = {"V-measure": "V-measure"}
SPACE = {
    name: name for name in ("mean cosine", "uniformity", "first component", "alignment", "IsoScore", "effective rank")
}


def _gap_truth(metric: str) -> tuple[float, float]:
    return GAP[metric], float("nan")


def _space(metric: str) -> tuple[float, float]:
    return space_truth()[metric], float("nan")
