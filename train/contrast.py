"""InfoNCE of a global batch of pairs and its gradient at the local embeddings.

Every rank scores its own queries against the documents of all ranks. A document's gradient is the sum over the ranks
that used it, so gathering needs no autograd: gather values, differentiate, sum the documents' gradients, keep one's
own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from train.config import LossConfig
from train.distributed import gather_rows, sum_over_ranks
from train.loss import false_negatives, info_nce
from train.objective import Objective
from train.rows import PairRows
from train.temperature import Temperature


@dataclass(frozen=True)
class _Side:
    """Local queries, each with its match at the same place in the local candidates, and the keys of both."""

    queries: Int[Tensor, query]
    candidates: Int[Tensor, candidate]
    query_keys: Int[Tensor, query]
    candidate_keys: Int[Tensor, candidate]
    partner_keys: Int[Tensor, candidate]


def contrast(
    embeddings: Float[Tensor, "unique dim"], rows: PairRows, config: LossConfig, temperature: Temperature
) -> Objective:
    """Mean InfoNCE over all queries of the global batch, and its gradient at this rank's unique embeddings."""
    sides = [_Side(rows.anchors, rows.documents, rows.anchor_keys, rows.document_keys, rows.document_anchors)]
    if config.symmetric:
        positives = slice(0, len(rows.anchors))
        positive_keys = rows.document_keys[positives]
        back = _Side(rows.documents[positives], rows.anchors, positive_keys, rows.anchor_keys, positive_keys)
        sides.append(back)
    leaf = embeddings.detach().requires_grad_()
    total = sum_over_ranks(torch.tensor(len(rows.anchors) * len(sides), device=leaf.device))
    parts = [_one_direction(leaf, side, temperature, gather=config.gather) for side in sides]
    summed = [torch.stack(terms).sum(0) / total for terms in zip(*parts, strict=True)]
    return Objective(sum_over_ranks(summed[0]), summed[1], sum_over_ranks(summed[2]))


def _one_direction(
    leaf: Float[Tensor, "unique dim"], side: _Side, temperature: Temperature, *, gather: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss of the local queries, gradient at the local embeddings over all ranks, at log-temperature here."""
    queries, local = leaf[side.queries], leaf[side.candidates]
    pool, mine = gather_rows(local.detach()) if gather else (local.detach(), slice(0, len(local)))
    pool = pool.clone().requires_grad_()
    keys, partners = (gather_rows(key)[0] if gather else key for key in (side.candidate_keys, side.partner_keys))
    targets = mine.start + torch.arange(len(queries), device=leaf.device)
    ignored = false_negatives(side.query_keys, targets, keys, partners)
    with torch.enable_grad():
        log_value = temperature.log_value.detach().clone().requires_grad_()
        loss = info_nce(queries, pool, targets, ignored, log_value.exp())
    at_queries, at_pool, slope = torch.autograd.grad(loss, [leaf, pool, log_value])
    at_candidates = sum_over_ranks(at_pool) if gather else at_pool
    return loss.detach(), at_queries.index_add(0, side.candidates, at_candidates[mine]), slope
