"""What the pairs of one query count for where its positives are taken together (`several` has the formulas)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from train.distributed.collectives import gather_rows


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
