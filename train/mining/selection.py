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
    """What a negative's score may be. Scores are cosines, or a cross-encoder's."""

    margin: float = 0.0
    ratio: float = 1.0
    max_score: float | None = None
    min_score: float | None = None


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
    """Ranks `first` to `last` (from 1) of what is found and not excluded; how many excluded ones stood before the end.

    Excluded texts take no rank: a window means the same for an anchor with one positive and with ten.
    """
    width = last - first + 1
    window = Candidates(
        np.full((len(positions), width), ABSENT, dtype=np.int64),
        np.full((len(positions), width), np.nan, dtype=np.float64),
    )
    passed_over = 0
    for row, (found, forbidden) in enumerate(zip(positions, excluded, strict=True)):
        present = found != ABSENT
        free = present & ~np.isin(found, np.fromiter(forbidden, dtype=np.int64, count=len(forbidden)))
        columns = np.flatnonzero(free)[:last]
        end = columns[-1] if len(columns) == last else len(found)
        passed_over += int((present & ~free)[:end].sum())
        kept = columns[first - 1 :]
        window.positions[row, : len(kept)] = found[kept]
        window.scores[row, : len(kept)] = scores[row, kept]
    return window, passed_over


def refusals(
    scores: Float[np.ndarray, "rows window"], positives: Float[np.ndarray, " rows"], rules: Rules
) -> dict[str, Bool[np.ndarray, "rows window"]]:
    """By rule, which scores it refuses; a nan is refused by all.

    The relative margin is a share of the positive's absolute value: 0.95 of a positive at -0.2 would lie above it.
    """
    wide, best = scores.astype(np.float64), positives.astype(np.float64)[:, None]
    found = {
        "margin": ~(wide <= best - rules.margin),
        "ratio": ~(wide <= best - (1 - rules.ratio) * np.abs(best)),
    }
    if rules.max_score is not None:
        found["max_score"] = ~(wide <= rules.max_score)
    if rules.min_score is not None:
        found["min_score"] = ~(wide >= rules.min_score)
    return found


def choose(
    candidates: Candidates,
    allowed: Bool[np.ndarray, "rows window"],
    count: int,
    how: Literal["top", "random"] = "top",
    *,
    seed: int = 0,
    first_row: int = 0,
) -> list[Int64[np.ndarray, " _"]]:
    """Columns of the chosen candidates of each row, highest score first (of equals the better rank); at most `count`.

    A draw depends on the seed and the row's number in the whole file, never on how rows are batched.
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
