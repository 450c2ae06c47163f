"""InfoNCE and its gradient in one pass over tiles: three matrix products, and never the matrix of all cosines.

For a strip of queries, tile after tile of candidates is scored. As in FlashAttention (Dao et al. 2022), the sum of the
exponentials and the candidates weighted by them are kept relative to the highest logit so far, so the gradient at the
queries needs no second look at the tile. The exponentials of one strip stay in memory; once their sums are known they
give the gradient at the candidates, with what a later tile did to the highest logit put on the queries' side.

The positive's term is apart from the negatives': 1 - p(positive) is then a sum and not a difference of nearly equals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from train.directions import Direction, Term
from train.false_negatives import SortedKeys

BUDGET_BYTES = 32 << 20
"""Working memory of a strip."""
TILE_WIDTH = 1024
"""Candidates of a tile."""
_FEWEST_ROWS, _MOST_ROWS = 64, 2048
_VECTORS = 5  # matrices of a strip's rows by dimensions in a workspace, beside a tile of candidates


@dataclass(frozen=True)
class Sizes:
    """Queries of a strip and candidates of a tile."""

    rows: int
    width: int


def choose_sizes(direction: Direction) -> Sizes:
    """Strips as high as the memory allows, of equal height."""
    queries, values = len(direction.queries), direction.queries.vectors.values
    candidates = sum(len(term.pool) for term in direction.terms)
    row_bytes = (candidates + _VECTORS * values.shape[1]) * values.element_size()
    most = min(_MOST_ROWS, max(_FEWEST_ROWS, BUDGET_BYTES // row_bytes))
    strips = -(-queries // most)
    return Sizes(-(-queries // max(1, strips)), TILE_WIDTH)


class _Workspace:
    """Memory that every strip uses again: fresh pages cost more than what is done with them."""

    def __init__(self, direction: Direction, sizes: Sizes) -> None:
        values = direction.queries.vectors.values
        dim, columns = values.shape[1], sum(len(term.pool) for term in direction.terms)
        self.exponentials = values.new_empty(sizes.rows * columns)
        self.queries, self.positives, self.query_pulls, self.positive_pulls, self.weighted = values.new_empty(
            _VECTORS, sizes.rows, dim
        )
        self.tile = values.new_empty(min(sizes.width, max(len(term.pool) for term in direction.terms)), dim)


@dataclass(frozen=True)
class _Scored:
    """Exponentials of one tile's logits, relative to `highest`."""

    term: Term
    begin: int
    exponentials: Float[Tensor, "query tile"]
    highest: Float[Tensor, " query"]


class _Left:
    """One side's unit vectors in a strip, and the candidates it was scored against, weighted by their exponentials."""

    def __init__(self, units: Float[Tensor, "query dim"], pulls: Float[Tensor, "query dim"]) -> None:
        self.units, self.pulls = units, pulls.zero_()


class _Strip:
    """Queries `begin` to `end` of a direction against everything."""

    def __init__(
        self,
        direction: Direction,
        begin: int,
        end: int,
        space: _Workspace,
        temperature: float,
        margin: float | None,
        hardness: float,
    ) -> None:
        rows = end - begin
        self.direction, self.begin, self.end, self.space = direction, begin, end, space
        self.temperature, self.scale = temperature, 1 / temperature + hardness
        queries = direction.queries.units(begin, end, space.queries[:rows])
        positives = direction.positives.units(begin, end, space.positives[:rows])
        self.cosine = torch.mul(queries, positives, out=space.weighted[:rows]).sum(1)
        self.limit = None if margin is None else (self.cosine - margin)[:, None]
        self.queries = _Left(queries, space.query_pulls[:rows])
        self.positives = _Left(positives, space.positive_pulls[:rows])
        self.scored = [self._left(term) for term in direction.terms]
        self.highest = self.cosine / temperature
        self.total = torch.zeros_like(self.cosine)  # of the negatives' exponentials
        self.tiles: list[_Scored] = []
        self.used = 0

    def _left(self, term: Term) -> _Left:
        return self.queries if term.left is self.direction.queries else self.positives

    def score(self, term: Term, keys: SortedKeys, width: int) -> None:
        """All candidates of a term, tile after tile."""
        row_keys = term.row_keys[:, self.begin : self.end].contiguous()
        left = self._left(term)
        for number, begin in enumerate(range(0, len(term.pool), width)):
            end = min(begin + width, len(term.pool))
            size = len(left.units) * (end - begin)
            logits = self.space.exponentials[self.used : self.used + size].view(len(left.units), end - begin)
            self.used += size
            candidates = term.pool.units(begin, end, self.space.tile[: end - begin])
            torch.mm(left.units, candidates.T, out=logits)
            if self.limit is not None:
                logits.masked_fill_(logits > self.limit, -torch.inf)
            keys.ignore(logits, row_keys, number)
            self._raise_highest(logits.amax(1).mul_(self.scale))
            exponentials = torch.exp_(logits.mul_(self.scale).sub_(self.highest[:, None]))
            self.total += exponentials.sum(1)
            left.pulls.addmm_(exponentials, candidates)
            self.tiles.append(_Scored(term, begin, exponentials, self.highest))

    def _raise_highest(self, found: Float[Tensor, " query"]) -> None:
        """Make what was summed relative to a higher logit, where there is one."""
        highest = torch.maximum(self.highest, found)
        fade = torch.exp(self.highest - highest)
        self.highest = highest
        self.total *= fade
        for left in set(self.scored):
            left.pulls *= fade[:, None]

    def finish(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Loss of the strip and its derivative by log(temperature); gradients are added to the rows'."""
        own = self.cosine / self.temperature
        partition = self.total + torch.exp(own - self.highest)
        share = 1 / (self.temperature * partition)
        missed = share * self.total  # what the positive lacks of probability 1, over the temperature
        self._give_candidates(share)
        queries, positives = self.queries, self.positives
        slope = torch.dot(missed, self.cosine)
        for left, other in ((queries, positives), (positives, queries)):
            left.pulls *= share[:, None]
            slope -= torch.mul(left.pulls, left.units, out=self.space.weighted[: len(own)]).sum()
            left.pulls.addcmul_(other.units, missed[:, None], value=-1)
        self.direction.queries.add(self.begin, queries.pulls)
        self.direction.positives.add(self.begin, positives.pulls)
        return (partition.log() + self.highest - own).sum(), slope

    def _give_candidates(self, share: Float[Tensor, " query"]) -> None:
        for tile in self.tiles:
            left = self._left(tile.term)
            factor = torch.exp(tile.highest - self.highest).mul_(share)
            weighted = torch.mul(left.units, factor[:, None], out=self.space.weighted[: len(factor)])
            scratch = self.space.tile[: tile.exponentials.shape[1]]
            tile.term.pool.add_product(tile.begin, tile.exponentials, weighted, scratch)


@torch.no_grad()
def tiled_info_nce(
    direction: Direction,
    log_temperature: Float[Tensor, ""],
    *,
    margin: float | None,
    hardness: float,
    sizes: Sizes | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Summed loss and its derivative by log(temperature), as `train.loss.plain_info_nce`; adds the gradient at the
    unit rows to theirs."""
    loss, slope = torch.zeros_like(log_temperature), torch.zeros_like(log_temperature)
    if not len(direction.queries):
        return loss, slope
    sizes = sizes or choose_sizes(direction)
    space = _Workspace(direction, sizes)
    keys = [SortedKeys(term.column_keys, sizes.width) for term in direction.terms]
    temperature = float(log_temperature.exp())
    for begin in range(0, len(direction.queries), sizes.rows):
        end = min(begin + sizes.rows, len(direction.queries))
        strip = _Strip(direction, begin, end, space, temperature, margin, hardness)
        for term, sorted_keys in zip(direction.terms, keys, strict=True):
            strip.score(term, sorted_keys, sizes.width)
        found, found_slope = strip.finish()
        loss += found
        slope += found_slope
    return loss, slope
