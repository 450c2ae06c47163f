"""Rows of a matrix as unit vectors, a tile at a time, and the gradient with respect to those unit vectors.

A cosine needs the norms once; a normalised copy of a whole batch would cost as much memory as the batch. So the norms
are kept and a tile is scaled when it is read, into memory that the caller uses again and again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from train.distributed.collectives import gather_rows, sum_over_ranks, world_size

EPSILON = 1e-12
"""A shorter vector is divided by this instead of its length, as in torch.nn.functional.normalize."""
_BLOCK = 256


@dataclass(frozen=True)
class NormalizedMatrix:
    """A matrix, 1 / length of its rows (None: they are unit vectors), and the gradient at the unit rows, summed up."""

    values: Float[Tensor, "vector dim"]
    inverse: Float[Tensor, " vector"] | None
    gradient: Float[Tensor, "vector dim"]

    @classmethod
    def of(cls, values: Float[Tensor, "vector dim"], *, unit: bool = False) -> NormalizedMatrix:
        """With a zero gradient; `unit` says that the rows are unit vectors already."""
        lengths = None if unit else torch.linalg.vector_norm(values, dim=1).clamp_min_(EPSILON)
        return cls(values, None if lengths is None else lengths.reciprocal_(), torch.zeros_like(values))

    def through_normalisation(self, factor: float) -> tuple[Float[Tensor, "vector dim"], Float[Tensor, ""]]:
        """`factor` times the gradient at `values`, in the memory of the one at the unit rows; and half the sum of the
        products of unit rows and their gradients.

        With u = x / |x|: dL/dx = (g - (g.u) u) / |x|. A vector shorter than EPSILON is only divided by EPSILON. The
        half sum is that of dL/dc * c over all cosines c, because a cosine is part of both its vectors' products.
        """
        assert self.inverse is not None
        total = self.values.new_zeros(())
        scratch = torch.empty_like(self.values[:_BLOCK])
        for begin in range(0, len(self.values), _BLOCK):
            part = slice(begin, begin + _BLOCK)
            values, inverse, gradient = self.values[part], self.inverse[part], self.gradient[part]
            along = torch.mul(values, gradient, out=scratch[: len(values)]).sum(1).mul_(inverse)
            total += along.sum()
            along.masked_fill_(inverse >= 1 / EPSILON, 0.0).mul_(inverse.square()).mul_(-factor)
            gradient.mul_((inverse * factor)[:, None]).addcmul_(values, along[:, None])
        return self.gradient, total.mul_(factor / 2)


class UnitRows:
    """Some rows of a matrix, in an order of their own; a row may come more than once."""

    def __init__(self, vectors: NormalizedMatrix, index: Int[Tensor, " row"]) -> None:
        self.vectors, self.index = vectors, index
        consecutive = torch.arange(len(index), device=index.device)
        self._start: int | None = None  # of rows that follow each other, which need no copying
        if len(index) and torch.equal(index, consecutive + index[0]):
            self._start = int(index[0])

    def __len__(self) -> int:
        return len(self.index)

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self.vectors.values.shape[1]

    def units(
        self, begin: int, end: int, out: Float[Tensor, "tile dim"], factor: float = 1.0
    ) -> Float[Tensor, "tile dim"]:
        """`factor` times the rows `begin` to `end` as unit vectors: in `out`, or where they already are."""
        values, inverse = self.vectors.values, self.vectors.inverse
        if self._start is None:
            place: Tensor | slice = self.index[begin:end]
            found = torch.index_select(values, 0, self.index[begin:end], out=out)
        else:
            place = slice(self._start + begin, self._start + end)
            found = values[place]
        if inverse is not None:
            return torch.mul(found, (inverse[place] * factor)[:, None], out=out)
        return found if factor == 1.0 else torch.mul(found, factor, out=out)

    def all_units(self) -> Float[Tensor, "row dim"]:
        """Every row as a unit vector."""
        return self.units(0, len(self), self.vectors.values.new_empty(len(self), self.dim))

    def add(self, begin: int, gradient: Float[Tensor, "tile dim"]) -> None:
        """Add to the gradient at the unit rows from `begin` on."""
        end = begin + len(gradient)
        if self._start is None:
            self.vectors.gradient.index_add_(0, self.index[begin:end], gradient)
        else:
            self.vectors.gradient[self._start + begin : self._start + end].add_(gradient)

    def add_scaled(
        self,
        begin: int,
        gradient: Float[Tensor, "tile dim"],
        factors: Float[Tensor, " tile"],
        scratch: Float[Tensor, "tile dim"],
    ) -> None:
        """The same with a factor for each row."""
        if self._start is None:
            self.add(begin, torch.mul(gradient, factors[:, None], out=scratch))
        else:
            place = self._start + begin
            self.vectors.gradient[place : place + len(gradient)].addcmul_(gradient, factors[:, None])

    def add_product(
        self,
        begin: int,
        weights: Float[Tensor, "other tile"],
        others: Float[Tensor, "other dim"],
        scratch: Float[Tensor, "tile dim"],
    ) -> None:
        """Add the sums of `others`, weighted by each column, to the gradient at the unit rows from `begin` on."""
        if self._start is None:
            self.add(begin, torch.mm(weights.T, others, out=scratch))
        else:
            place = self._start + begin
            self.vectors.gradient[place : place + weights.shape[1]].addmm_(weights.T, others)


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
class Together:
    """The pairs of a direction whose texts on the left are one: they share the weight of one pair.

    `joint` sums the probabilities of a text's right answers. Pairs are those of all ranks, `mine` is where this rank's
    stand. A pair that comes twice counts once.
    """

    groups: Int[Tensor, " pair"]
    copies: Float[Tensor, " pair"]
    weights: Float[Tensor, " pair"]
    """The sum over all pairs is 1."""
    count: int
    mine: slice
    joint: bool

    @classmethod
    def of(cls, left: Int[Tensor, " local"], right: Int[Tensor, " local"], *, joint: bool) -> Together:
        """By keys of both texts of this rank's pairs."""
        keys, mine = gather_rows(torch.stack([left, right], dim=1))
        pairs, numbers, times = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
        names, groups = torch.unique(keys[:, 0], return_inverse=True)
        answers = torch.bincount(torch.searchsorted(names, pairs[:, 0].contiguous()), minlength=len(names))
        copies = times[numbers].double()
        return cls(groups, copies, 1 / (len(names) * copies * answers[groups]), len(names), mine, joint)

    def counted(self, cosines: Float[Tensor, " local"], temperature: Float[Tensor, ""]) -> Counted:
        """What this rank's pairs count for, from the cosines of their two texts."""
        weights = self.weights[self.mine].to(cosines.dtype)
        if not self.joint:
            return Counted(weights, weights, cosines / temperature, cosines)
        everyone, _ = gather_rows(cosines)
        highest = everyone.detach().new_full((self.count,), -torch.inf)
        highest = highest.scatter_reduce(0, self.groups, everyone.detach(), "amax")[self.groups]
        parts = torch.exp((everyone - highest) / temperature) / self.copies.to(cosines.dtype)
        sums = parts.new_zeros(self.count).scatter_add(0, self.groups, parts)[self.groups]
        targets, own = highest / temperature + sums.log(), parts / (sums * self.count)
        return Counted(weights, own[self.mine], targets[self.mine], highest[self.mine])


@dataclass(frozen=True)
class Counted:
    """What each pair counts for, and the positives that its negatives are compared with."""

    weights: Float[Tensor, " local"]
    """Of the pair's loss, and so of its negatives."""
    own: Float[Tensor, " local"]
    """Of the pair's own cosine."""
    targets: Float[Tensor, " local"]
    """Log of the sum of e^(c / temperature) over the positives that are taken together."""
    highest: Float[Tensor, " local"]
    """Their highest cosine, from which a margin is measured."""

    def some(self, begin: int, end: int) -> Counted:
        """The pairs from `begin` to `end`."""
        return Counted(*(values[begin:end] for values in vars(self).values()))


@dataclass(frozen=True)
class Direction:
    """Each query must find its positive, at the same place in `positives`, among the candidates of all terms."""

    queries: UnitRows
    positives: UnitRows
    terms: tuple[NegativePool, ...]
    together: Together | None = None
    """Set where the pairs of a query count together; otherwise each pair counts 1."""
