"""Which candidates become negatives: a pure function of ranks and scores.

Margins against the positive guard against texts that match the anchor as well but were never labelled
(Moreira et al. 2024, NV-Retriever).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

ABSENT = -1
"""Position where a row has no candidate."""


@dataclass(frozen=True)
class Rules:
    """Bounds of a negative's score, which is a cosine or the score of a cross-encoder."""

    margin: float = 0.0
    ratio: float = 1.0
    max_score: float | None = None
    min_score: float | None = None


Choice = Literal["top", "random"]
"""The candidates with the highest scores, or a seeded sample."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How negatives are selected: at most `count` of the ranks `min_rank` to `max_rank` that the rules allow."""

    count: int
    min_rank: int = 1
    max_rank: int = 100
    rules: Rules = Rules()
    choice: Choice = "top"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Candidates:
    """The window of each anchor, in order of cosine: corpus positions (ABSENT behind the last) and scores."""

    positions: Int64[np.ndarray, "rows window"]
    scores: Float64[np.ndarray, "rows window"]


def rank_window(
    positions: Int64[np.ndarray, "rows found"],
    scores: Float[np.ndarray, "rows found"],
    excluded: Sequence[Collection[int]],
    first: int,
    last: int,
) -> tuple[Candidates, int]:
    """Candidates of the ranks `first` to `last` (from 1), and how many excluded texts come before rank `last`.

    Excluded texts are not ranked: a window means the same for an anchor with one positive and with ten.
    """
    width = last - first + 1
    window = Candidates(
        np.full((len(positions), width), ABSENT, dtype=np.int64),
        np.full((len(positions), width), np.nan, dtype=np.float64),
    )
    passed_over = 0
    for row, (nearest, forbidden) in enumerate(zip(positions, excluded, strict=True)):
        present = nearest != ABSENT
        free = present & ~np.isin(nearest, np.fromiter(forbidden, dtype=np.int64, count=len(forbidden)))
        columns = np.flatnonzero(free)[:last]
        end = columns[-1] if len(columns) == last else len(nearest)
        passed_over += int((present & ~free)[:end].sum())
        kept = columns[first - 1 :]
        window.positions[row, : len(kept)] = nearest[kept]
        window.scores[row, : len(kept)] = scores[row, kept]
    return window, passed_over


def refusals(
    scores: Float[np.ndarray, "rows window"], positives: Float[np.ndarray, " rows"], rules: Rules
) -> dict[str, Bool[np.ndarray, "rows window"]]:
    """For each rule, which scores it refuses. Every rule refuses nan.

    The relative margin is a fraction of the positive's absolute value: 0.95 times a score of -0.2 would be above it.
    """
    wide, best = scores.astype(np.float64), positives.astype(np.float64)[:, None]
    refused = {
        "margin": ~(wide <= best - rules.margin),
        "ratio": ~(wide <= best - (1 - rules.ratio) * np.abs(best)),
    }
    if rules.max_score is not None:
        refused["max_score"] = ~(wide <= rules.max_score)
    if rules.min_score is not None:
        refused["min_score"] = ~(wide >= rules.min_score)
    return refused


def choose(
    candidates: Candidates,
    allowed: Bool[np.ndarray, "rows window"],
    count: int,
    how: Choice = "top",
    *,
    seed: int = 0,
    first_row: int = 0,
) -> list[Int64[np.ndarray, " _"]]:
    """Columns of the chosen candidates of each row, highest score first (of equals the better rank); at most `count`.

    A random choice depends on the seed and the row's number in the file, not on how rows are batched.
    """
    chosen = []
    for row, (positions, scores, free) in enumerate(zip(candidates.positions, candidates.scores, allowed, strict=True)):
        columns = np.flatnonzero(free & (positions != ABSENT))
        if how == "random" and len(columns) > count:
            columns = np.random.default_rng([seed, first_row + row]).choice(columns, size=count, replace=False)
            columns.sort()
        order = np.argsort(-scores[columns], kind="stable")[:count]
        chosen.append(columns[order])
    return chosen
