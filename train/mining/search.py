"""From vectors to negatives, a batch of rows at a time: search, window, rules, choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64
from tqdm import tqdm

from dec2vec.corpus.faiss_index import IndexKind, index_array, search_array
from dec2vec.runtime import bar_options
from dec2vec.vectors.cosines import exact_cosines
from train.mining.cross_encoder import PairScores, rescore
from train.mining.encoders import Vectors
from train.mining.pairs import Material
from train.mining.selection import ABSENT, Candidates, Rules, Selection, choose, rank_window, refusals

BATCH = 512
"""Rows searched together: bounds the memory of found positions and scores."""
RECALL_SAMPLE = 200
"""Rows whose window is compared with the exact one."""


@dataclass(frozen=True)
class Negative:
    """A chosen text: its position in the corpus, its score, and its rank by cosine."""

    position: int
    score: float
    rank: int


@dataclass(frozen=True)
class Mined:
    """The score of a row's positive, and the negatives that were chosen for the row."""

    positive_score: float
    negatives: tuple[Negative, ...]


@dataclass
class Tally:
    """Counts of the candidates, and of those that each rule refuses (several rules may refuse one candidate)."""

    candidates: int = 0
    equal_or_positive: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lowest: float = float("inf")
    """Of the candidates' scores, as is `highest`."""
    highest: float = float("-inf")

    def note_scores(self, scores: Float64[np.ndarray, " _"]) -> None:
        """Widen the range to these scores."""
        self.lowest = min(self.lowest, float(scores.min(initial=np.inf)))
        self.highest = max(self.highest, float(scores.max(initial=-np.inf)))


@dataclass(frozen=True, eq=False)
class Judges:
    """Models that score the candidates in addition to the encoder that searches."""

    cross_encoder: PairScores | None = None
    teacher: Vectors | None = None


def mine(
    material: Material, vectors: Vectors, judges: Judges, selection: Selection, *, index_kind: IndexKind = "flat"
) -> tuple[list[Mined], Tally, float]:
    """Negatives of every row, the tally, and the index's recall of the exact window (1 for flat)."""
    index = index_array(np.ascontiguousarray(vectors.corpus), index_kind)
    tally = Tally()
    mined: list[Mined] = []
    with tqdm(total=len(material), desc="mine", unit="pair", **bar_options()) as bar:
        for start in range(0, len(material), BATCH):
            rows = slice(start, min(start + BATCH, len(material)))
            mined.extend(_mine_rows(index, rows, material, vectors, judges, selection, tally))
            bar.update(rows.stop - rows.start)
    return mined, tally, _recall(index, vectors, index_kind, selection.max_rank)


def _mine_rows(
    index: object,
    rows: slice,
    material: Material,
    vectors: Vectors,
    judges: Judges,
    selection: Selection,
    tally: Tally,
) -> Iterator[Mined]:
    excluded = material.excluded[rows]
    anchors = vectors.of_rows(rows)
    k = min(vectors.corpus_size, selection.max_rank + max(map(len, excluded)))
    scores, positions = search_array(index, anchors, k)
    window, passed_over = rank_window(positions, scores, excluded, selection.min_rank, selection.max_rank)
    exact, best = _cosines(vectors, rows, window.positions)
    window = Candidates(window.positions, exact)
    if judges.cross_encoder is not None:
        texts = material.anchors[rows], material.positives[rows], material.corpus
        rescored, best = rescore(judges.cross_encoder, *texts, window.positions)
        window = Candidates(window.positions, rescored)
    refused = refusals(window.scores, best, selection.rules)
    if judges.teacher is not None:
        judged = _cosines(judges.teacher, rows, window.positions)
        margins = Rules(selection.rules.margin, selection.rules.ratio)
        refused["teacher"] = np.any([*refusals(*judged, margins).values()], axis=0)
    present = window.positions != ABSENT
    tally.candidates += int(present.sum())
    tally.note_scores(window.scores[present])
    tally.equal_or_positive += passed_over
    tally.refused.update({rule: int((mask & present).sum()) for rule, mask in refused.items()})
    allowed = present & ~np.any([*refused.values()], axis=0)
    chosen = choose(window, allowed, selection.count, selection.choice, seed=selection.seed, first_row=rows.start)
    for row, columns in enumerate(chosen):
        yield Mined(
            float(best[row]),
            tuple(_negative(window, row, int(column), selection.min_rank) for column in columns),
        )


def _negative(window: Candidates, row: int, column: int, min_rank: int) -> Negative:
    return Negative(int(window.positions[row, column]), float(window.scores[row, column]), min_rank + column)


def _cosines(
    vectors: Vectors, rows: slice, positions: Int64[np.ndarray, "rows window"]
) -> tuple[Float64[np.ndarray, "rows window"], Float64[np.ndarray, " rows"]]:
    """An encoder's cosines of the candidates (nan where there is none) and of the positives, exact enough to compare.

    A candidate with the vector of the positive has its very score, so that no rounding decides whether it is above it.
    """
    anchors, positives = vectors.of_rows(rows), vectors.positives(rows)
    cosines = np.full(positions.shape, np.nan, dtype=np.float64)
    best = np.empty(len(positions), dtype=np.float64)
    for row, candidates in enumerate(positions):
        present = candidates != ABSENT
        texts = np.concatenate([vectors.documents[candidates[present]], positives[row : row + 1]])
        found = exact_cosines(np.broadcast_to(anchors[row], texts.shape), texts)
        cosines[row, present], best[row] = found[:-1], found[-1]
    return cosines, best


def _recall(index: object, vectors: Vectors, index_kind: IndexKind, depth: int) -> float:
    """Fraction of the exact `depth` nearest texts that the index finds, over an even sample of the anchors."""
    if index_kind == "flat":
        return 1.0
    sample = np.unique(np.linspace(0, len(vectors.anchors) - 1, RECALL_SAMPLE, dtype=np.int64))
    queries = np.ascontiguousarray(vectors.anchors[sample])
    k = min(vectors.corpus_size, depth)
    _, approximate = search_array(index, queries, k)
    _, exact = search_array(index_array(np.ascontiguousarray(vectors.corpus), "flat"), queries, k)
    return float(np.mean([np.isin(wanted, got).mean() for wanted, got in zip(exact, approximate, strict=True)]))
