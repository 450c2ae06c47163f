"""InfoNCE and its gradient in one pass over tiles: three matrix products, and never the matrix of all cosines.

For a strip of queries, tile after tile of candidates is scored. As in FlashAttention (Dao et al. 2022), the sum of the
exponentials and the candidates weighted by them are kept relative to the highest logit so far, so the gradient at the
queries needs no second look at the tile. The exponentials of one strip stay in memory; once their sums are known they
give the gradient at the candidates, with what a later tile did to the highest logit put on the queries' side.

Cosines are bounded. Unless the temperature is low, the exponentials cannot overflow, so the highest logit is neither
computed nor corrected for.

The positive's term is kept apart from those of the negatives, so that 1 - p(positive) is a sum, and not a difference of
nearly equal numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from train.losses.infonce.candidates import Direction, NegativePool
from train.losses.infonce.false_negatives import SortedKeys
from train.losses.infonce.together import Counted, Together
from train.losses.infonce.unit_rows import UnitRows

_FEWEST_ROWS = 64
_BOUNDED = 40.0  # e^40 and e^-40, and their products, times millions of terms: within float32
_VECTORS = 5  # matrices of a strip's rows by dimensions in a workspace, in addition to a tile of candidates


@dataclass(frozen=True)
class LossConstants:
    """The numbers of the loss, as in `train.losses.infonce.plain.info_nce`."""

    temperature: float
    margin: float | None
    hardness: float

    @property
    def scale(self) -> float:
        """What a negative's cosine is multiplied by."""
        return 1 / self.temperature + self.hardness

    @property
    def bounded(self) -> bool:
        """Whether sums of exponentials of all possible logits are representable as they are."""
        return self.scale <= _BOUNDED


@dataclass(frozen=True)
class Sizes:
    """Queries of a strip and candidates of a tile."""

    rows: int
    width: int


@dataclass(frozen=True)
class Limits:
    """The largest sizes that suit a kind of device."""

    budget_bytes: int
    """Working memory of a strip."""
    rows: int
    width: int

    @classmethod
    def of(cls, device: torch.device) -> Limits:
        """A CPU's tiles fit into its caches; an accelerator's are so large that launching kernels takes no time."""
        return CPU_LIMITS if device.type == "cpu" else ACCELERATOR_LIMITS

    def sizes(self, queries: int, row_bytes: int) -> Sizes:
        """Strips as high as the memory allows, of equal height; a query takes `row_bytes`."""
        most = min(self.rows, max(_FEWEST_ROWS, self.budget_bytes // row_bytes))
        strips = -(-queries // most)
        return Sizes(-(-queries // max(1, strips)), self.width)


CPU_LIMITS = Limits(32 << 20, rows=2048, width=2048)
ACCELERATOR_LIMITS = Limits(512 << 20, rows=8192, width=16_384)


def choose_sizes(direction: Direction) -> Sizes:
    """The sizes that suit the device of the vectors."""
    values, candidates = direction.queries.vectors.values, sum(len(term.pool) for term in direction.terms)
    row_bytes = (candidates + _VECTORS * values.shape[1]) * values.element_size()
    return Limits.of(values.device).sizes(len(direction.queries), row_bytes)


class _Workspace:
    """Memory that every strip uses again: fresh pages cost more than what is done with them."""

    def __init__(self, direction: Direction, sizes: Sizes) -> None:
        values = direction.queries.vectors.values
        dim, columns = values.shape[1], sum(len(term.pool) for term in direction.terms)
        self.exponentials = values.new_empty(sizes.rows * columns)
        self.queries, self.positives, self.query_pulls, self.positive_pulls, self.scratch = values.new_empty(
            _VECTORS, sizes.rows, dim
        )
        self.tile = values.new_empty(min(sizes.width, max(len(term.pool) for term in direction.terms)), dim)


@dataclass(frozen=True)
class _Left:
    """One side of a strip: `scale` times its unit vectors, and the sum of the candidates that it was scored against,
    weighted by their exponentials."""

    side: UnitRows
    vectors: Float[Tensor, "query dim"]
    weighted_sums: Float[Tensor, "query dim"]


@dataclass(frozen=True)
class _Scored:
    """Exponentials of one tile's logits, less `highest`."""

    left: _Left
    pool: UnitRows
    begin: int
    exponentials: Float[Tensor, "query tile"]
    highest: Float[Tensor, " query"]


class _QueryBlock:
    """Queries `begin` to `end` of a direction against everything."""

    def __init__(
        self,
        direction: Direction,
        begin: int,
        end: int,
        space: _Workspace,
        form: LossConstants,
        keys: list[SortedKeys],
        counted: Counted | None,
    ) -> None:
        rows, self.begin, self.end = end - begin, begin, end
        self.direction, self.space, self.form, self.keys = direction, space, form, keys
        self.queries, self.positives = (
            _Left(side, side.units(begin, end, vectors[:rows], form.scale), weighted_sums[:rows])
            for side, vectors, weighted_sums in (
                (direction.queries, space.queries, space.query_pulls),
                (direction.positives, space.positives, space.positive_pulls),
            )
        )
        self.scored = [self._left(term) for term in direction.terms]
        for left in self.scored:
            left.weighted_sums.zero_()
        products = torch.mul(self.queries.vectors, self.positives.vectors, out=space.scratch[:rows])
        self.cosine = products.sum(1).div_(form.scale**2)
        self.counted = None if counted is None else counted.some(begin, end)
        self.own = self.cosine / form.temperature if self.counted is None else self.counted.targets
        highest = self.cosine if self.counted is None else self.counted.highest
        self.limit = None if form.margin is None else ((highest - form.margin) * form.scale)[:, None]
        self.highest = torch.zeros_like(self.own) if form.bounded else self.own
        self.total = torch.zeros_like(self.own)  # of the negatives' exponentials
        self.tiles: list[_Scored] = []

    def _left(self, term: NegativePool) -> _Left:
        return self.queries if term.left is self.direction.queries else self.positives

    def run(self, width: int) -> Float[Tensor, ""]:
        """The strip's loss; its gradients are added to the rows'."""
        used = 0
        for term, left, keys in zip(self.direction.terms, self.scored, self.keys, strict=True):
            row_keys = term.row_keys[:, self.begin : self.end].contiguous()
            for number, begin in enumerate(range(0, len(term.pool), width)):
                tile = term.pool.units(begin, min(begin + width, len(term.pool)), self._tile(len(term.pool) - begin))
                size = len(row_keys.T) * len(tile)
                logits = self.space.exponentials[used : used + size].view(-1, len(tile))
                used += size
                torch.mm(left.vectors, tile.T, out=logits)
                if self.limit is not None:
                    logits.masked_fill_(logits > self.limit, -torch.inf)
                keys.ignore(logits, row_keys, number)
                exponentials = self._exponentials(logits)
                self.total += exponentials.sum(1)
                left.weighted_sums.addmm_(exponentials, tile)
                self.tiles.append(_Scored(left, term.pool, begin, exponentials, self.highest))
        return self._finish()

    def _tile(self, rows: int) -> Float[Tensor, "tile dim"]:
        return self.space.tile[:rows]

    def _exponentials(self, logits: Float[Tensor, "query tile"]) -> Float[Tensor, "query tile"]:
        """In place. What was summed so far becomes relative to a higher logit, where there is one."""
        if self.form.bounded:
            return logits.exp_()
        highest = torch.maximum(self.highest, logits.amax(1))
        fade = torch.exp(self.highest - highest)
        self.highest = highest
        self.total *= fade
        for left in {id(left): left for left in self.scored}.values():
            left.weighted_sums.mul_(fade[:, None])
        return logits.sub_(highest[:, None]).exp_()

    def _finish(self) -> Float[Tensor, ""]:
        share = 1 / (self.form.temperature * (self.total + torch.exp(self.own - self.highest)))
        missed = share * self.total / self.form.scale  # what the positive lacks of probability 1
        if self.counted is not None:
            missed, share = missed * self.counted.own, share * self.counted.weights
        scratch = self.space.scratch[: len(share)]
        for left, other in ((self.queries, self.positives), (self.positives, self.queries)):
            left.side.add_scaled(self.begin, other.vectors, -missed, scratch)
        for left in {id(left): left for left in self.scored}.values():
            left.side.add_scaled(self.begin, left.weighted_sums, share, scratch)
        self._give_candidates(share / self.form.scale)
        ratio = self.total.log() + self.highest - self.own  # log of negatives over positive
        losses = torch.logaddexp(ratio, torch.zeros_like(ratio))
        return losses.sum() if self.counted is None else losses.mul_(self.counted.weights).sum()

    def _give_candidates(self, share: Float[Tensor, " query"]) -> None:
        weighted, made_for = self.space.scratch[: len(share)], None
        for tile in self.tiles:
            if made_for is None or made_for.left is not tile.left or made_for.highest is not tile.highest:
                factors = torch.exp(tile.highest - self.highest) * share
                torch.mul(tile.left.vectors, factors[:, None], out=weighted)
                made_for = tile
            tile.pool.add_product(tile.begin, tile.exponentials, weighted, self._tile(tile.exponentials.shape[1]))


@torch.no_grad()
def tiled_info_nce(direction: Direction, form: LossConstants, sizes: Sizes | None = None) -> Float[Tensor, ""]:
    """Summed loss; adds the gradient at the unit rows to theirs. As `train.losses.infonce.plain.plain_info_nce`."""
    loss = direction.queries.vectors.values.new_zeros(())
    counted = None if direction.together is None else _counted(direction, direction.together, form)
    if not len(direction.queries):
        return loss
    sizes = sizes or choose_sizes(direction)
    space = _Workspace(direction, sizes)
    keys = [SortedKeys(term.column_keys, sizes.width) for term in direction.terms]
    for begin in range(0, len(direction.queries), sizes.rows):
        end = min(begin + sizes.rows, len(direction.queries))
        loss += _QueryBlock(direction, begin, end, space, form, keys, counted).run(sizes.width)
    return loss


def _counted(direction: Direction, together: Together, form: LossConstants) -> Counted:
    """What the pairs count for. All ranks take part, also one without pairs."""
    values, count = direction.queries.vectors.values, len(direction.queries)
    cosines, rows = values.new_empty(count), Limits.of(values.device).rows
    for begin in range(0, count, rows):
        end = min(begin + rows, count)
        pair = (
            side.units(begin, end, values.new_empty(end - begin, direction.queries.dim)) for side in _sides(direction)
        )
        cosines[begin:end] = torch.mul(*pair).sum(1)
    return together.counted(cosines, values.new_tensor(form.temperature))


def _sides(direction: Direction) -> tuple[UnitRows, UnitRows]:
    return direction.queries, direction.positives
