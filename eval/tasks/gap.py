"""Relevant against irrelevant answers: mean cosine of each kind, their difference, and AUC."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int64

from dec2vec.errors import UserError
from dec2vec.files.tables import read_table
from eval.config import GapConfig
from eval.metrics.classification import ranking_metrics, whole
from eval.tasks.columns import columns_read
from eval.tasks.figure import Figure, Scale, too_few
from eval.tasks.pair_files import LabelledPairs, PairColumns, read_pairs
from eval.tasks.pair_task import PairEvidence, PairTask
from eval.tasks.pairs import rarer_label
from eval.tasks.task import TaskVectors, weighted_figures


@dataclass(frozen=True, eq=False)
class GapTask(PairTask[LabelledPairs, PairEvidence]):
    """Two-sided pairs: questions are queries, answers documents."""

    kind: ClassVar[str] = "gap"

    def dev_score(self, vectors: TaskVectors) -> float:
        """The main metric on dev."""
        pairs = self.known_dev_pairs
        cosines = pairs.cosines(vectors)
        return float(_metrics(cosines, pairs.labels, whole(len(cosines)))[self.metric][0])

    def evidence_from_scores(
        self, dev: Float64[np.ndarray, " dev_pairs"] | None, test: Float64[np.ndarray, " test_pairs"]
    ) -> PairEvidence:
        """Nothing is chosen on dev."""
        return PairEvidence(test, self.test_pairs.labels, owners=owners(self.test_pairs))

    def figures(self, evidence: PairEvidence, resamples: int, seed: int) -> list[Figure]:
        """The main metric, then the rest of gap, auc and the mean cosines `relevant` and `irrelevant`.

        Questions are resampled, each with its pairs, as their cosines are not independent. In gap and AUC a pair of one
        question with another's answer belongs to both by half, as what is near to everything is in both kinds of pairs.
        """
        labels = evidence.labels
        metrics = partial(_metrics, evidence.cosines, labels)
        if evidence.owners is None:
            return weighted_figures(metrics, self.metric, len(labels), resamples, self.seed_of(seed))
        questions, codes = np.unique(evidence.owners, return_inverse=True)
        first, second = codes.reshape(evidence.owners.shape).T
        found = weighted_figures(
            lambda drawn: metrics(drawn[:, first], (drawn[:, first] + drawn[:, second]) / 2),
            self.metric,
            len(questions),
            resamples,
            self.seed_of(seed),
        )
        reason = too_few(len(questions), "questions") or rarer_label(labels)[1]
        return [_with_interval(figure, len(labels), reason) for figure in found]


def load_gap(config: GapConfig) -> GapTask:
    """The files of `config`, read and checked."""
    test = _read(config.test, config)
    dev = _read(config.dev, config) if config.dev else None
    return GapTask(config.name or f"{test.name}/gap", config.metric, test, dev)


def with_dealt_answers(name: str, questions: list[str], answers: list[str], seed: int) -> LabelledPairs:
    """Relevant pairs, and each question with another's answer that is not also its own."""
    relevant = set(zip(questions, answers, strict=True))
    order = np.random.default_rng(seed).permutation(len(questions))
    dealt = [
        (questions[one], answers[other])
        for one, other in zip(order, np.roll(order, 1), strict=True)
        if (questions[one], answers[other]) not in relevant
    ]
    if not dealt:
        raise UserError(f"{name}: all questions have the same answers; add pairs, or label irrelevant ones")
    first = [*questions, *(question for question, _ in dealt)]
    second = [*answers, *(answer for _, answer in dealt)]
    labels = [True] * len(questions) + [False] * len(dealt)
    return LabelledPairs.from_texts(name, first, second, labels, two_sided=True)


def owners(pairs: LabelledPairs) -> Int64[np.ndarray, "pairs 2"]:
    """Of each pair the question, and the first question that its answer is relevant to (itself where there is none)."""
    relevant: dict[int, int] = {}
    for question, answer in zip(pairs.left[pairs.labels].tolist(), pairs.right[pairs.labels].tolist(), strict=True):
        relevant.setdefault(answer, question)
    both = zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)
    return np.array([(question, relevant.get(answer, question)) for question, answer in both], dtype=np.int64)


def _with_interval(figure: Figure, pairs: int, reason: str) -> Figure:
    scale: Scale = "share" if figure.metric == "auc" else "open"
    return replace(figure, n=pairs, size=figure.n, scale=scale).without_interval(reason)


def _read(path: str, config: GapConfig) -> LabelledPairs:
    if config.label is not None:
        columns = PairColumns(config.question, config.answer, config.label)
        return read_pairs(path, columns, two_sided=True)
    table = read_table(path, [config.question, config.answer])
    name, used = Path(table.name).stem, [config.question, config.answer]
    pairs = with_dealt_answers(name, table.texts(config.question), table.texts(config.answer), config.seed)
    note = "every row counts as relevant; label is there and not used" if "label" in table.columns else ""
    return replace(pairs, columns=columns_read(table, used, note))


def _metrics(
    cosines: Float64[np.ndarray, " pairs"],
    labels: Bool[np.ndarray, " pairs"],
    weights: Float64[np.ndarray, "resamples pairs"],
    shared: Float64[np.ndarray, "resamples pairs"] | None = None,
) -> dict[str, Float64[np.ndarray, " resamples"]]:
    """`shared` are the weights of the two figures that compare pairs of both kinds, where they differ."""
    both = weights if shared is None else shared
    return {
        "gap": _mean(cosines, labels, both) - _mean(cosines, ~labels, both),
        "auc": ranking_metrics(cosines, labels, both)["auc"],
        "relevant": _mean(cosines, labels, weights),
        "irrelevant": _mean(cosines, ~labels, weights),
    }


def _mean(
    cosines: Float64[np.ndarray, " pairs"],
    members: Bool[np.ndarray, " pairs"],
    weights: Float64[np.ndarray, "resamples pairs"],
) -> Float64[np.ndarray, " resamples"]:
    """Mean cosine of the members; that of the full sample in a resample that drew none of them."""
    drawn = weights[:, members]
    total = drawn.sum(axis=1)
    fallback = np.full(len(weights), cosines[members].mean())
    return np.asarray(np.divide(drawn @ cosines[members], total, out=fallback, where=total > 0))
