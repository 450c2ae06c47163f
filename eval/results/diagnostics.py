"""Data behind the pictures and the table of mistakes: scatter, confusion matrix, precision and recall, histograms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from eval.selection.choose import Choice
from eval.selection.judge import Measured
from eval.systems.system import System
from eval.tasks.sts import SimilarityEvidence, StsTask
from eval.tasks.topic_evidence import TopicEvidence, Wrong

MAX_SCATTER = 1500
"""Points of a scatter: t-SNE of more takes minutes, and hides what it shows."""
COLOURED = 10
"""Labels of a scatter that get a colour of their own; the rarer ones are grey."""
MAX_CURVE = 300
"""Points kept of a precision-recall curve."""


@dataclass(frozen=True, eq=False)
class Scatter:
    """Vectors in two planes: principal components, and t-SNE (van der Maaten and Hinton 2008).

    `share` is the part of the variance that the first two components hold.
    """

    title: str
    labels: Sequence[str]
    pca: Float64[np.ndarray, "points 2"]
    tsne: Float64[np.ndarray, "points 2"]
    share: float

    @property
    def coloured(self) -> list[str]:
        """The most frequent labels, in order of the alphabet."""
        found = [label for label, _ in Counter(self.labels).most_common()]
        return sorted(found if len(found) <= COLOURED else found[: COLOURED - 1])

    @classmethod
    def from_vectors(
        cls, title: str, vectors: Float[np.ndarray, "points dim"], labels: Sequence[str], *, seed: int = 0
    ) -> Scatter:
        """A seeded sample of at most 1,500 rows, scaled to length 1, because cosine is what is judged."""
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        count = min(len(vectors), MAX_SCATTER)
        rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:count])
        sample = vectors[rows].astype(np.float64)
        norms = np.linalg.norm(sample, axis=1, keepdims=True)
        sample = np.divide(sample, norms, out=np.zeros_like(sample), where=norms > 0)
        pca = PCA(2, svd_solver="full").fit(sample)
        start = (
            "pca" if np.ptp(sample, axis=0).any() else "random"
        )  # equal rows have no plane: scikit-learn would crash
        plane = TSNE(2, perplexity=min(30.0, (count - 1) / 3), init=start, random_state=seed).fit_transform(sample)
        return cls(
            title=title,
            labels=[labels[row] for row in rows],
            pca=np.asarray(pca.transform(sample), dtype=np.float64),
            tsne=np.asarray(plane, dtype=np.float64),
            share=float(pca.explained_variance_ratio_.sum()),
        )


@dataclass(frozen=True, eq=False)
class Confusion:
    """`counts[i, j]`: texts of label i that were given label j."""

    title: str
    labels: Sequence[str]
    counts: Int64[np.ndarray, "gold predicted"]

    @classmethod
    def from_labels(
        cls, title: str, gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str] = ()
    ) -> Confusion:
        """Labels in the order given, or as they come up in `gold`, then in `predicted`."""
        names = list(dict.fromkeys([*labels, *gold, *predicted]))
        code = {name: index for index, name in enumerate(names)}
        counts = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(counts, ([code[name] for name in gold], [code[name] for name in predicted]), 1)
        return cls(title, names, counts)

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.counts) / self.counts.sum())

    def mistakes(self, limit: int) -> list[tuple[str, str, int]]:
        """(gold, predicted, count) of the most frequent ones."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        cells = [divmod(int(index), len(self.labels)) for index in order]
        return [(self.labels[i], self.labels[j], int(wrong[i, j])) for i, j in cells if wrong[i, j]]


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision by recall over all thresholds, and the point of the threshold that dev chose."""

    title: str
    precision: Float64[np.ndarray, " points"]
    recall: Float64[np.ndarray, " points"]
    average_precision: float
    threshold: float
    at_threshold: tuple[float, float]
    """(precision, recall) where scores of at least `threshold` count as yes."""

    @classmethod
    def from_scores(
        cls, title: str, scores: Float[np.ndarray, " pairs"], labels: Bool[np.ndarray, " pairs"], threshold: float
    ) -> PrecisionRecall:
        """`labels` must hold both yes and no; a precision without any yes is 1, as scikit-learn has it."""
        from sklearn.metrics import average_precision_score, precision_recall_curve

        precision, recall, _ = precision_recall_curve(labels, scores)
        kept = np.unique(np.linspace(0, len(precision) - 1, MAX_CURVE).round().astype(np.int64))
        said = scores >= threshold
        hits = int((said & labels).sum())
        return cls(
            title=title,
            precision=np.asarray(precision[kept], dtype=np.float64),
            recall=np.asarray(recall[kept], dtype=np.float64),
            average_precision=float(average_precision_score(labels, scores)),
            threshold=threshold,
            at_threshold=(hits / int(said.sum()) if said.any() else 1.0, hits / int(labels.sum())),
        )


SIMILAR, DISSIMILAR = 0.8, 0.2
"""Shares of a task's score range from which on, and up to which, a pair is similar and dissimilar."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Cosines of a system's similar and dissimilar test pairs."""

    moment: str
    """Such as `after tuning`."""
    system: str
    similar: Float64[np.ndarray, " similar"]
    dissimilar: Float64[np.ndarray, " dissimilar"]

    @property
    def title(self) -> str:
        return f"{self.moment}: {self.system}"


SHOWN = 10


@dataclass(frozen=True)
class Mistakes:
    """Of one system on one task: `total` of `n` test texts were taken for another class, the surest are `shown`."""

    task: str
    system: str
    n: int
    total: int
    shown: Sequence[Wrong]

    @classmethod
    def from_evidence(cls, task: str, system: str, decided: TopicEvidence, limit: int = SHOWN) -> Mistakes:
        """By how far the wrong class led."""
        wrong = decided.wrong()
        return cls(task, system, len(decided.texts), len(wrong), wrong[:limit])


def find_reference(
    choices: Sequence[Choice], references: Sequence[System], tuned: str | None
) -> tuple[System, System] | None:
    """The untuned decoder read as the headline's tuned run, and that run's raw system; None where one is missing.

    `references` are in the order of the tuned runs; `tuned` is the headline's system.
    """
    if not choices:
        return None
    systems = [choice.system for choice in choices]
    runs = list(dict.fromkeys(system.run for system in systems if system.is_tuned))
    for run, before in zip(runs, references, strict=True):
        names = {system.name for system in systems if system.run == run}
        after = replace(before, run=run)
        if tuned in names and {before, after} <= {*systems}:
            return before, after
    return None


def histograms(tests: Sequence[StsTask], before: Sequence[Measured], after: Sequence[Measured]) -> list[Histogram]:
    """One system by test, before and after tuning; none unless some pairs are similar and some are not."""
    panels = [_histogram(tests, rows, moment) for moment, rows in (("before", before), ("after", after))]
    return panels if all(len(panel.similar) and len(panel.dissimilar) for panel in panels) else []


def _histogram(tests: Sequence[StsTask], rows: Sequence[Measured], moment: str) -> Histogram:
    """Pairs of all tests whose gold score is in the top or bottom fifth of its test's range."""
    cosines = np.concatenate([row.evidence.cosines for row in rows if isinstance(row.evidence, SimilarityEvidence)])
    golds = [task.test_pairs.gold for task in tests]
    shares = np.concatenate([(gold - gold.min()) / np.ptp(gold) for gold in golds])
    finite = np.isfinite(cosines)
    similar, dissimilar = cosines[finite & (shares >= SIMILAR)], cosines[finite & (shares <= DISSIMILAR)]
    return Histogram(f"{moment} tuning", rows[0].name, similar, dissimilar)
