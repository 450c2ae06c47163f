"""From vectors to class scores: the nearest label text, k nearest neighbours, a logistic-regression probe.

Scores are (texts, classes), higher is likelier; the answer is the highest, of equals the first class. Vectors with
inf or nan (half precision overflows) give nan throughout, so that they cannot pass for a judgement.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int64

Vectors = Float32[np.ndarray, "texts dim"]
Scores = Float64[np.ndarray, "texts classes"]
ITERATIONS = 1000
TIE = 1e-6
"""What a unit of distance takes from a vote: it decides between equally many votes, and nothing else."""
logger = logging.getLogger(__name__)


def label_cosines(vectors: Vectors, labels: Float32[np.ndarray, "classes dim"]) -> Scores:
    """Cosine of every text with every label text, in float64; 0 for a zero vector, nan where inf or nan comes in."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(_unit(vectors) @ _unit(labels).T)


@runtime_checkable
class TrainedClassifier(Protocol):
    """Learns from train vectors; one setting (k, C) is chosen on dev."""

    @property
    def setting(self) -> str:
        """What the setting is called."""

    def settings(self, rows: int) -> Sequence[int | float]:
        """Candidates for that many train rows; of equally good ones the first is taken."""

    def limits(self, rows: int) -> tuple[int | float | None, int | float | None]:
        """Beyond which no setting makes sense."""

    @property
    def option(self) -> str:
        """Which option names the candidates."""

    def scores(
        self,
        train: Float32[np.ndarray, "rows dim"],
        codes: Int64[np.ndarray, " rows"],
        vectors: Vectors,
        classes: int,
        settings: Sequence[int | float],
    ) -> list[Scores]:
        """Of `vectors`, for each of `settings`."""


@dataclass(frozen=True)
class NearestNeighbours:
    """The k nearest train texts vote; scores are shares of votes.

    Of classes with equally many votes the nearer wins: the one whose voters have the larger sum of cosines. Without
    that the order of the class names would decide, which cost TF-IDF 1.3 points on Banking77.
    """

    candidates: tuple[int, ...] = (1, 3, 5, 10, 20, 50)

    @property
    def setting(self) -> str:
        return "k"

    def settings(self, rows: int) -> Sequence[int | float]:
        """Those up to the number of train rows, or that number."""
        return [k for k in self.candidates if k <= rows] or [rows]

    def limits(self, rows: int) -> tuple[int | float | None, int | float | None]:
        """One neighbour and all of them."""
        return 1, rows

    @property
    def option(self) -> str:
        return "neighbours"

    def scores(
        self,
        train: Float32[np.ndarray, "rows dim"],
        codes: Int64[np.ndarray, " rows"],
        vectors: Vectors,
        classes: int,
        settings: Sequence[int | float],
    ) -> list[Scores]:
        """One search serves every k."""
        from sklearn.neighbors import NearestNeighbors

        if not (np.isfinite(train).all() and np.isfinite(vectors).all()):
            return [np.full((len(vectors), classes), np.nan) for _ in settings]
        deepest = int(max(settings))
        search = NearestNeighbors(n_neighbors=deepest, metric="cosine").fit(train)
        distances, neighbours = search.kneighbors(vectors)
        votes, rows = np.zeros((len(vectors), classes)), np.arange(len(vectors))
        shares: dict[int | float, Scores] = {}
        closeness = 1 - TIE * distances.astype(np.float64)
        for count, (column, vote) in enumerate(zip(codes[neighbours].T, closeness.T, strict=True), start=1):
            votes[rows, column] += vote
            if count in settings:
                shares[count] = votes / count
        return [shares[k] for k in settings]


@dataclass(frozen=True)
class LogisticProbe:
    """Logistic regression on standardised vectors, so that C means the same to every encoder; scores are probabilities.

    Mean and deviation are those of the train vectors.
    """

    candidates: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)

    @property
    def setting(self) -> str:
        return "C"

    def settings(self, rows: int) -> Sequence[int | float]:
        """All of them."""
        return self.candidates

    def limits(self, rows: int) -> tuple[int | float | None, int | float | None]:
        """None."""
        return None, None

    @property
    def option(self) -> str:
        return "strengths"

    def scores(
        self,
        train: Float32[np.ndarray, "rows dim"],
        codes: Int64[np.ndarray, " rows"],
        vectors: Vectors,
        classes: int,
        settings: Sequence[int | float],
    ) -> list[Scores]:
        """One fit for each C."""
        from sklearn.preprocessing import StandardScaler

        if not (np.isfinite(train).all() and np.isfinite(vectors).all()):
            return [np.full((len(vectors), classes), np.nan) for _ in settings]
        wide = train.astype(np.float64)
        scaler = StandardScaler().fit(wide)
        known, seen = scaler.transform(wide), scaler.transform(vectors.astype(np.float64))
        return [_probabilities(known, codes, seen, classes, strength) for strength in settings]


def _unit(vectors: Vectors) -> Float64[np.ndarray, "texts dim"]:
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, norms, out=np.zeros_like(wide), where=norms != 0))


def _probabilities(
    train: Float64[np.ndarray, "rows dim"],
    codes: Int64[np.ndarray, " rows"],
    vectors: Float64[np.ndarray, "texts dim"],
    classes: int,
    strength: float,
) -> Scores:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, codes)
    if model.n_iter_.max() >= ITERATIONS:
        logger.warning("the probe with C %g did not converge in %d iterations", strength, ITERATIONS)
    found = np.zeros((len(vectors), classes))
    found[:, model.classes_] = model.predict_proba(vectors)
    return found
