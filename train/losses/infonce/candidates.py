"""What is scored against what: the candidates of all ranks, and the queries that must find theirs among them.

Autograd does not see the gathering: the gradients of the candidates are summed over the ranks, and each rank keeps its
own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from train.distributed.collectives import gather_rows, sum_over_ranks, world_size
from train.losses.infonce.together import Together
from train.losses.infonce.unit_rows import NormalizedMatrix, UnitRows


@dataclass(frozen=True)
class Pool:
    """Candidates of all ranks, this rank's own, and where those stand among all."""

    everyone: UnitRows
    own: UnitRows
    place: slice

    @classmethod
    def of(cls, own: UnitRows) -> Pool:
        """The local rows themselves where there are no others: no copy."""
        if world_size() == 1:
            return cls(own, own, slice(0, len(own)))
        values, place = gather_rows(own.all_units())
        return cls(
            UnitRows(NormalizedMatrix.of(values, unit=True), torch.arange(len(values), device=values.device)),
            own,
            place,
        )

    def some(self, chosen: Int[Tensor, " chosen"]) -> UnitRows:
        """Some of the candidates of all ranks."""
        return UnitRows(self.everyone.vectors, self.everyone.index[chosen])

    def hand_back(self) -> None:
        """Sum the candidates' gradients over the ranks and add this rank's own to its rows'."""
        if self.everyone is not self.own:
            self.own.add(0, sum_over_ranks(self.everyone.vectors.gradient)[self.place])


@dataclass(frozen=True)
class NegativePool:
    """Candidates that `left` is scored against: the queries' side of a pair, or the positives'. Keys as in
    train/false_negatives.py; a pair's own positive is among the equal keys, so that it is no negative."""

    left: UnitRows
    pool: UnitRows
    row_keys: Int[Tensor, "rule pair"]
    column_keys: Int[Tensor, "rule candidate"]


@dataclass(frozen=True)
class Direction:
    """Each query must find its positive, at the same place in `positives`, among the candidates of all terms."""

    queries: UnitRows
    positives: UnitRows
    terms: tuple[NegativePool, ...]
    together: Together | None = None
    """Set where the pairs of a query count together; otherwise each pair counts 1."""
