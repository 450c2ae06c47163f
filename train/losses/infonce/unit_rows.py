"""Rows of a matrix as unit vectors, a tile at a time, and the gradient with respect to those unit vectors.

A cosine needs the norms once; a normalised copy of a whole batch would cost as much memory as the batch. So the norms
are kept and a tile is scaled when it is read, into memory that the caller uses again and again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

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
