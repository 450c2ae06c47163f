"""From vectors to negatives, a batch of rows at a time: search, window, rules, choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64
from tqdm import tqdm

from dec2vec.corpus.faiss_index import index_array, search_array
from train.mining.args import MineArgs
from train.mining.cross_encoder import PairScores, rescore
from train.mining.encoders import Vectors
from train.mining.pairs import Material
from train.mining.selection import ABSENT, Candidates, Rules, choose, rank_window, refusals

BATCH = 512
"""Rows searched together: bounds the memory of found positions and scores."""
RECALL_SAMPLE = 200
"""Rows whose window is compared with the exact one."""
PROGRESS_DELAY = 3.0


@dataclass(frozen=True)
class Negative:
    """A chosen text: its place in the corpus, its score, and its rank by cosine."""

    position: int
    score: float
    rank: int


@dataclass(frozen=True)
class Mined:
    """What was found for one row."""

    positive_score: float
    negatives: tuple[Negative, ...]


@dataclass
class Tally:
    """Candidates seen, and how many of them each rule refuses, alone or with others."""

    candidates: int = 0
    equal_or_positive: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, eq=False)
class Judges:
    """Who scores the candidates besides the encoder that found them."""

    cross_encoder: PairScores | None = None
    teacher: Vectors | None = None


def mine(material: Material, vectors: Vectors, judges: Judges, args: MineArgs) -> tuple[list[Mined], Tally, float]:
    """Negatives of every row, the tally, and the index's recall of the exact window (1 for flat)."""
    index = index_array(np.ascontiguousarray(vectors.corpus), args.index)
    tally = Tally()
    mined: list[Mined] = []
    with tqdm(total=len(material), desc="mine", unit="pair", delay=PROGRESS_DELAY, leave=False) as bar:
        for start in range(0, len(material), BATCH):
            rows = slice(start, min(start + BATCH, len(material)))
            mined.extend(_mine_rows(index, rows, material, vectors, judges, args, tally))
            bar.update(rows.stop - rows.start)
    return mined, tally, _recall(index, vectors, args)


def _mine_rows(
    index: object,
    rows: slice,
    material: Material,
    vectors: Vectors,
    judges: Judges,
    args: MineArgs,
    tally: Tally,
) -> Iterator[Mined]:
    excluded = material.excluded[rows]
    anchors = vectors.of_rows(rows)
    k = min(vectors.corpus_size, args.max_rank + max(map(len, excluded)))
    scores, positions = search_array(index, anchors, k)
    window, passed_over = rank_window(positions, scores, excluded, args.min_rank, args.max_rank)
    best = np.einsum("ij,ij->i", anchors, vectors.positives(rows)).astype(np.float64)
    if judges.cross_encoder is not None:
        texts = material.anchors[rows], material.positives[rows], material.corpus
        rescored, best = rescore(judges.cross_encoder, *texts, window.positions)
        window = Candidates(window.positions, rescored)
    refused = refusals(window.scores, best, Rules(args.margin, args.ratio, args.max_score, args.min_score))
    if judges.teacher is not None:
        judged = _cosines(judges.teacher, rows, window.positions)
        refused["teacher"] = np.any([*refusals(*judged, Rules(args.margin, args.ratio)).values()], axis=0)
    present = window.positions != ABSENT
    tally.candidates += int(present.sum())
    tally.equal_or_positive += passed_over
    tally.refused.update({rule: int((mask & present).sum()) for rule, mask in refused.items()})
    allowed = present & ~np.any([*refused.values()], axis=0)
    chosen = choose(window, allowed, args.negatives, args.choice, seed=args.seed, first_row=rows.start)
    for row, columns in enumerate(chosen):
        yield Mined(float(best[row]), tuple(_negative(window, row, int(column), args) for column in columns))


def _negative(window: Candidates, row: int, column: int, args: MineArgs) -> Negative:
    return Negative(int(window.positions[row, column]), float(window.scores[row, column]), args.min_rank + column)


def _cosines(
    vectors: Vectors, rows: slice, positions: Int64[np.ndarray, "rows window"]
) -> tuple[Float64[np.ndarray, "rows window"], Float64[np.ndarray, " rows"]]:
    """Of the candidates (nan where there is none) and of the positives, by another encoder."""
    anchors, positives = vectors.of_rows(rows), vectors.positives(rows)
    cosines = np.full(positions.shape, np.nan, dtype=np.float64)
    for row, found in enumerate(positions):
        present = found != ABSENT
        cosines[row, present] = vectors.documents[found[present]] @ anchors[row]
    return cosines, np.einsum("ij,ij->i", anchors, positives).astype(np.float64)


def _recall(index: object, vectors: Vectors, args: MineArgs) -> float:
    """Share of the exact first `max_rank` that the index finds, over an even sample of the anchors."""
    if args.index == "flat":
        return 1.0
    sample = np.unique(np.linspace(0, len(vectors.anchors) - 1, RECALL_SAMPLE, dtype=np.int64))
    queries = np.ascontiguousarray(vectors.anchors[sample])
    k = min(vectors.corpus_size, args.max_rank)
    _, found = search_array(index, queries, k)
    _, exact = search_array(index_array(np.ascontiguousarray(vectors.corpus), "flat"), queries, k)
    return float(np.mean([np.isin(wanted, got).mean() for wanted, got in zip(exact, found, strict=True)]))
