"""What InfoNCE contrasts: queries, the positive of each, and everything that may be a negative."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from train.unit_rows import Rows


@dataclass(frozen=True)
class Term:
    """Candidates that `left` is scored against: the queries' side of a pair, or the positives'. Keys as in
    train/false_negatives.py; a pair's own positive is among the equal keys, so that it is no negative."""

    left: Rows
    pool: Rows
    row_keys: Int[Tensor, "rule pair"]
    column_keys: Int[Tensor, "rule candidate"]


@dataclass(frozen=True)
class Direction:
    """Each query must find its positive, at the same place in `positives`, among the candidates of all terms."""

    queries: Rows
    positives: Rows
    terms: tuple[Term, ...]
