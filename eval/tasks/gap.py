"""Relevant against irrelevant answers: mean cosine of each kind, their difference, and AUC.

Two pairs that share a question or an answer are no independent evidence. What is resampled are therefore groups of
pairs that share no text with any pair of another group, and answers are dealt out so that such groups stay small.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from dec2vec.errors import UserError
from dec2vec.files.tables import read_table
from eval.config import GapConfig
from eval.metrics.classification import ranking_metrics, whole
from eval.tasks.columns import columns_read
from eval.tasks.figure import Figure, Scale, too_few
from eval.tasks.pair_files import LabelledPairs, PairColumns, named_test, read_pairs
from eval.tasks.pair_task import PairEvidence, PairTask
from eval.tasks.pairs import rarer_label
from eval.tasks.task import TaskVectors, weighted_figures

LARGE = 20
"""A group of more than a twentieth of the rows is too large to swap its answers with a small one."""


@dataclass(frozen=True, eq=False)
class GapTask(PairTask[LabelledPairs, PairEvidence]):
    """Two-sided pairs: questions are queries, answers documents."""

    kind: ClassVar[str] = "gap"

    def dev_score(self, vectors: TaskVectors) -> float:
        """The main metric on dev."""
        return self.dev_scores(vectors)[self.metric]

    def dev_scores(self, vectors: TaskVectors) -> dict[str, float]:
        """Gap, AUC and the mean cosines of both kinds on dev."""
        pairs = self.known_dev_pairs
        cosines = pairs.cosines(vectors)
        values = _metrics(cosines, pairs.labels, whole(len(cosines)))
        return {name: float(value[0]) for name, value in values.items()}

    @property
    def dev_metrics(self) -> tuple[str, ...]:
        return ("gap", "auc")

    def evidence_from_scores(
        self, dev: Float64[np.ndarray, " dev_pairs"] | None, test: Float64[np.ndarray, " test_pairs"]
    ) -> PairEvidence:
        """Nothing is chosen on dev."""
        return PairEvidence(
            test, self.test_pairs.labels, groups=independent_groups(self.test_pairs.left, self.test_pairs.right)
        )

    def figures(self, evidence: PairEvidence, resamples: int, seed: int) -> list[Figure]:
        """The main metric, then the rest of gap, auc and the mean cosines `relevant` and `irrelevant`.

        Groups of pairs are resampled. They count for the interval as many as they would be if all had one size.
        """
        labels = evidence.labels
        metrics = partial(_metrics, evidence.cosines, labels)
        if evidence.groups is None:
            return weighted_figures(metrics, self.metric, len(labels), resamples, self.seed_of(seed))
        _, codes, sizes = np.unique(evidence.groups, return_inverse=True, return_counts=True)
        found = weighted_figures(
            lambda drawn: metrics(drawn[:, codes]), self.metric, len(sizes), resamples, self.seed_of(seed)
        )
        count = int(sizes.sum() ** 2 / (sizes**2).sum())
        reason = too_few(count, "groups of pairs that share no text") or rarer_label(labels)[1]
        return [_with_interval(replace(figure, n=len(labels), size=count), reason) for figure in found]


def load_gap(config: GapConfig, *, is_dev: bool = False) -> GapTask:
    """The files of `config`, read and checked. With `is_dev`, only that of dev, or of test where there is none."""
    dev = _read(config.dev, config) if config.dev else None
    test = dev if is_dev and dev is not None else _read(named_test("gap", config.test), config)
    dev = test if is_dev else dev
    return GapTask(config.name or f"{test.name}/gap", config.metric, test, dev)


def with_dealt_answers(name: str, questions: list[str], answers: list[str], seed: int) -> LabelledPairs:
    """Relevant pairs, and each question with another's answer that is not also its own."""
    left, right = (np.unique(texts, return_inverse=True)[1].astype(np.int64) for texts in (questions, answers))
    own = set(zip(questions, answers, strict=True))
    dealt = [(questions[one], answers[other]) for one, other in _deal(independent_groups(left, right), seed)]
    dealt = [pair for pair in dealt if pair not in own]
    if not dealt:
        raise UserError(f"{name}: all questions have the same answers; add pairs, or label irrelevant ones")
    first = [*questions, *(question for question, _ in dealt)]
    second = [*answers, *(answer for _, answer in dealt)]
    labels = [True] * len(questions) + [False] * len(dealt)
    return LabelledPairs.from_texts(name, first, second, labels, two_sided=True)


def _deal(groups: Int64[np.ndarray, " rows"], seed: int) -> list[tuple[int, int]]:
    """Rows, each with the row whose answer its question gets.

    Groups of about one size swap their answers by twos, the last three of an odd number in turn: what a question or an
    answer is near to anyway is then in both kinds of pairs of one group. Where most rows are of one group, they go
    round among all rows.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    found: dict[int, list[int]] = {}
    for row in order.tolist():
        found.setdefault(int(groups[row]), []).append(row)
    rows = sorted(found.values(), key=len, reverse=True)
    if len(rows) == 1 or len(rows[0]) > max(2 * len(rows[1]), len(groups) // LARGE):
        return list(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    rounds = [rows[start : start + 2] for start in range(0, len(rows) - 1, 2)]
    rounds[-1] = rows[2 * len(rounds) - 2 :]
    return [
        (row, other[turn % len(other)])
        for round_ in rounds
        for one, other in zip(round_, [*round_[1:], round_[0]], strict=True)
        for turn, row in enumerate(one)
    ]


def independent_groups(
    left: Int64[np.ndarray, " pairs"], right: Int64[np.ndarray, " pairs"]
) -> Int64[np.ndarray, " pairs"]:
    """A number for each pair of question and answer: pairs have the same one if texts of theirs connect them."""
    questions = int(left.max()) + 1
    size = questions + int(right.max()) + 1
    links = csr_matrix((np.ones(len(left), dtype=np.int8), (left, right + questions)), (size, size))
    _, codes = connected_components(links, directed=False)
    return np.asarray(codes[left], dtype=np.int64)


def _with_interval(figure: Figure, reason: str) -> Figure:
    scale: Scale = "area" if figure.metric == "auc" else "open"
    return replace(figure, scale=scale).without_interval(reason)


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
) -> dict[str, Float64[np.ndarray, " resamples"]]:
    relevant, irrelevant = _mean(cosines, labels, weights), _mean(cosines, ~labels, weights)
    auc = ranking_metrics(cosines, labels, weights)["auc"]
    return {"gap": relevant - irrelevant, "auc": auc, "relevant": relevant, "irrelevant": irrelevant}


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
