"""InfoNCE of a global batch of pairs and its gradient at the local embeddings.

Every rank scores its own queries against the candidates of all ranks. A candidate's gradient is the sum over the ranks
that used it, so gathering needs no autograd: gather values, differentiate, sum the candidates' gradients, keep one's
own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from train.config import LossConfig
from train.directions import Direction, Term
from train.distributed import gather_rows, sum_over_ranks, world_size
from train.false_negatives import PairKeys, as_documents
from train.loss import plain_info_nce
from train.objective import Objective
from train.rows import NO_ANCHOR, PairRows
from train.temperature import Temperature
from train.tiles import tiled_info_nce
from train.unit_rows import Rows, Vectors


def contrast(
    embeddings: Float[Tensor, "unique dim"], rows: PairRows, config: LossConfig, temperature: Temperature
) -> Objective:
    """Mean InfoNCE over all queries of the global batch, and its gradient at this rank's unique embeddings."""
    values = embeddings.detach()
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    local = Vectors.of(values) if config.tiles else Vectors.of(F.normalize(values, dim=1), unit=True)
    directions, pools = _directions(local, rows, config)
    kernel = tiled_info_nce if config.tiles else plain_info_nce
    log_temperature = temperature.log_value.detach().to(values.dtype)
    parts = [kernel(way, log_temperature, margin=config.margin, hardness=config.hardness) for way in directions]
    for pool in pools:
        pool.hand_back()
    total = int(sum_over_ranks(torch.tensor(len(rows.anchors) * len(directions), device=values.device)))
    loss, slope = (torch.stack(terms).sum() / total for terms in zip(*parts, strict=True))
    if config.tiles:
        gradient = local.through_normalisation(1 / total)
    else:
        gradient = _through_normalize(values, local.gradient / total)
    return Objective(
        sum_over_ranks(loss), gradient.to(embeddings.dtype), sum_over_ranks(slope).to(temperature.log_value.dtype)
    )


def _through_normalize(
    values: Float[Tensor, "unique dim"], gradient: Float[Tensor, "unique dim"]
) -> Float[Tensor, "unique dim"]:
    leaf = values.clone().requires_grad_()
    with torch.enable_grad():
        unit = F.normalize(leaf, dim=1)
    (found,) = torch.autograd.grad(unit, leaf, gradient)
    return found


@dataclass(frozen=True)
class _Pool:
    """Candidates of all ranks (or of this one only), this rank's own, and where those stand among all."""

    everyone: Rows
    own: Rows
    place: slice

    @classmethod
    def of(cls, own: Rows, *, gather: bool) -> _Pool:
        """The local rows themselves where there are no others: no copy."""
        if not gather:
            return cls(own, own, slice(0, len(own)))
        values, place = gather_rows(own.all_units())
        return cls(Rows(Vectors.of(values, unit=True), torch.arange(len(values), device=values.device)), own, place)

    def hand_back(self) -> None:
        """Sum the candidates' gradients over the ranks and add this rank's own to its rows'."""
        if self.everyone is not self.own:
            self.own.add(0, sum_over_ranks(self.everyone.vectors.gradient)[self.place])


def _directions(local: Vectors, rows: PairRows, config: LossConfig) -> tuple[list[Direction], list[_Pool]]:
    """Queries to documents, with the further negatives asked for; and back, when symmetric."""
    gather, pairs = config.gather and world_size() > 1, len(rows.anchors)
    queries, positives = Rows(local, rows.anchors), Rows(local, rows.documents[:pairs])
    keys = PairKeys(rows.anchor_keys, rows.document_keys[:pairs], rows.document_ids[:pairs])
    documents = _Pool.of(Rows(local, rows.documents), gather=gather)
    pools = [documents]
    columns = _all(as_documents(rows.document_keys, rows.document_anchors, rows.document_ids), gather)
    terms = [Term(queries, documents.everyone, keys.against_documents(), columns)]
    if config.document_negatives:
        others = (columns[2] != NO_ANCHOR).nonzero()[:, 0]
        pool = Rows(documents.everyone.vectors, documents.everyone.index[others])
        terms.append(Term(positives, pool, keys.against_documents(), columns[:, others]))
    back: list[Term] = []
    if config.query_negatives or config.symmetric:
        anchors = _Pool.of(queries, gather=gather)
        pools.append(anchors)
        sides = [(queries, terms)] * config.query_negatives + [(positives, back)] * config.symmetric
        query_columns = _all(keys.as_queries(), gather)
        for left, found in sides:
            found.append(Term(left, anchors.everyone, keys.against_queries(), query_columns))
    directions = [Direction(queries, positives, tuple(terms))]
    if back:
        directions.append(Direction(positives, queries, tuple(back)))
    return directions, pools


def _all(keys: Int[Tensor, "rule local"], gather: bool) -> Int[Tensor, "rule candidate"]:
    return gather_rows(keys.T.contiguous())[0].T.contiguous() if gather else keys
