"""InfoNCE of a global batch of pairs and its gradient at the local embeddings.

Every rank scores its own queries against the candidates of all ranks. A candidate's gradient is the sum over the ranks
that used it, so gathering needs no autograd: gather values, differentiate, sum the candidates' gradients, keep one's
own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from train.distributed.collectives import gather_rows, sum_over_ranks, world_size
from train.losses.infonce.candidates import Direction, NegativePool, Pool
from train.losses.infonce.false_negatives import PairKeys, as_documents, with_rules
from train.losses.infonce.plain import plain_info_nce
from train.losses.infonce.several import directions_together
from train.losses.infonce.tiled import LossConstants, tiled_info_nce
from train.losses.infonce.unit_rows import NormalizedMatrix, UnitRows
from train.losses.inputs import NO_ANCHOR, PairInputs
from train.losses.objective import Objective, Temperature
from train.options.losses import LossConfig


def infonce(
    embeddings: Float[Tensor, "unique dim"],
    rows: PairInputs,
    config: LossConfig,
    temperature: Temperature,
    *,
    tiles: bool = True,
) -> Objective:
    """Mean InfoNCE over all pairs of the global batch, and its gradient at this rank's unique embeddings.

    Where the positives of a query are taken together, it is the mean over the queries (`train.losses.infonce.several`).
    `tiles=False` keeps all cosines in memory and uses autograd, as the reference for tests.
    """
    values = embeddings.detach()
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    pairs = int(sum_over_ranks(torch.tensor(len(rows.anchors), device=values.device)))
    total = (1 + config.symmetric) * (pairs if config.positives == "each" else 1)  # else the weights sum to 1
    compute = _in_tiles if tiles else _plainly
    loss, slope, gradient = compute(values, rows, config, temperature.log_value.detach().to(values.dtype), total)
    slope = sum_over_ranks(slope).to(temperature.log_value.dtype)
    return Objective(sum_over_ranks(loss), gradient.to(embeddings.dtype), slope)


Found = tuple[Tensor, Tensor, Tensor]
"""This rank's share of the mean loss and of its derivative by log(temperature), and the gradient at its vectors."""


def _in_tiles(
    values: Float[Tensor, "unique dim"], rows: PairInputs, config: LossConfig, log_temperature: Tensor, total: int
) -> Found:
    local = NormalizedMatrix.of(values)
    directions, pools = _directions(local, rows, config)
    form = LossConstants(float(log_temperature.exp()), config.margin, config.hardness)
    losses = [tiled_info_nce(direction, form) for direction in directions]
    for pool in pools:
        pool.hand_back()
    gradient, products = local.through_normalisation(1 / total)
    return torch.stack(losses).sum() / total, -products, gradient  # logits fall as log(temperature) rises


def _plainly(
    values: Float[Tensor, "unique dim"], rows: PairInputs, config: LossConfig, log_temperature: Tensor, total: int
) -> Found:
    leaf = values.clone().requires_grad_()
    with torch.enable_grad():
        unit = F.normalize(leaf, dim=1)
    local = NormalizedMatrix.of(unit.detach(), unit=True)
    directions, pools = _directions(local, rows, config)
    parts = [
        plain_info_nce(direction, log_temperature, margin=config.margin, hardness=config.hardness)
        for direction in directions
    ]
    for pool in pools:
        pool.hand_back()
    (gradient,) = torch.autograd.grad(unit, leaf, local.gradient / total)
    loss, slope = (torch.stack(terms).sum() / total for terms in zip(*parts, strict=True))
    return loss, slope, gradient


def _directions(local: NormalizedMatrix, rows: PairInputs, config: LossConfig) -> tuple[list[Direction], list[Pool]]:
    """Queries to documents, with the further negatives of `config`; also documents to queries if it is symmetric."""
    if config.positives != "each":
        return directions_together(local, rows, config)
    pairs = len(rows.anchors)
    queries, positives = UnitRows(local, rows.anchors), UnitRows(local, rows.documents[:pairs])
    keys = PairKeys(rows.anchor_keys, rows.document_keys[:pairs], rows.document_ids[:pairs], rows.known)
    documents = Pool.of(UnitRows(local, rows.documents))
    pools = [documents]
    ignored = keys.against_documents()
    columns = with_rules(_all(as_documents(rows.document_keys, rows.document_anchors, rows.document_ids)), len(ignored))
    terms = [NegativePool(queries, documents.everyone, ignored, columns)]
    if config.document_negatives:
        others = (columns[2] != NO_ANCHOR).nonzero()[:, 0]
        terms.append(NegativePool(positives, documents.some(others), ignored, columns[:, others]))
    back: list[NegativePool] = []
    if config.query_negatives or config.symmetric:
        anchors = Pool.of(queries)
        pools.append(anchors)
        sides = [(queries, terms)] * config.query_negatives + [(positives, back)] * config.symmetric
        ignored = keys.against_queries()
        query_columns = with_rules(_all(keys.as_queries()), len(ignored))
        for left, found in sides:
            found.append(NegativePool(left, anchors.everyone, ignored, query_columns))
    directions = [Direction(queries, positives, tuple(terms))]
    if back:
        directions.append(Direction(positives, queries, tuple(back)))
    return directions, pools


def _all(keys: Int[Tensor, "rule local"]) -> Int[Tensor, "rule candidate"]:
    return gather_rows(keys.T.contiguous())[0].T.contiguous() if world_size() > 1 else keys
