"""Distillation from a reranker whose scores stand in the rows, beside the documents that it scored.

A row has a query, its positive and its hard negatives, and for each of these documents a score or none. Only documents
with a score count, and nothing is compared between rows. With c the student's cosines of the query with the documents,
and t the reranker's scores as logits:

    kl        KL(softmax(t / score_temperature) from softmax(c / temperature)), as ColBERTv2 (Santhanam et al. 2022);
              BGE (Xiao et al. 2024) has the cross-entropy, whose gradient is the same
    margin    mean over the negatives of ((c+ - c-) / temperature - (t+ - t-))^2 (MarginMSE, Hofstätter et al. 2020)

Both are averaged over the rows of the global batch that have two documents with a score, in `margin` the positive among
them. Cosines have a narrow range, so that a margin of 8 logits can only be met after the division by the temperature.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from train.distributed.collectives import sum_over_ranks
from train.losses.inputs import PairInputs, ScoredDocuments
from train.losses.objective import Objective, Temperature
from train.options.losses import LossConfig, ScoreScale

SATURATED = 1e-6
"""Probabilities nearer to 0 or 1 are read as this far from them: a sigmoid in single precision reaches both."""
TILE = 1 << 22
"""Components of document vectors held at once."""


def distil_reranker(
    embeddings: Float[Tensor, "unique dim"], rows: PairInputs, config: LossConfig, temperature: Temperature
) -> Objective:
    """The mean over the rows that count, and its gradient at this rank's embeddings; zero where no row counts."""
    scored = _counting(rows, config)
    scores = _as_logits(scored.scores, config.score_scale).to(embeddings.dtype)
    total = int(sum_over_ranks(torch.tensor(len(scores), device=embeddings.device)))
    leaf, log_value = embeddings.detach().clone().requires_grad_(), temperature.log_value.detach().clone()
    log_value.requires_grad_()
    loss, slope = leaf.new_zeros(()), torch.zeros_like(log_value)
    gradient = torch.zeros_like(leaf)
    anchors = rows.anchors[_counts(rows, config)]
    size = max(1, TILE // max(1, scores.shape[1] * leaf.shape[1]))
    for begin in range(0, len(scores), size):
        part = slice(begin, begin + size)
        with torch.enable_grad():
            queries, documents = (
                F.normalize(leaf[anchors[part]], dim=1),
                F.normalize(leaf[scored.documents[part]], dim=2),
            )
            cosines = torch.einsum("qd,qpd->qp", queries, documents) / log_value.exp()
            losses = (
                _kl(cosines, scores[part], config) if config.distance != "margin" else _margin(cosines, scores[part])
            )
            value = losses.sum() / total
        found = torch.autograd.grad(value, [leaf, log_value])
        loss, gradient, slope = loss + value.detach(), gradient + found[0], slope + found[1]
    return Objective(sum_over_ranks(loss), gradient, sum_over_ranks(slope))


def counting_rows(scores: Float[Tensor, "row place"], distance: str | None) -> Bool[Tensor, " row"]:
    """Which rows have something to compare: two scores, and for a margin that of the positive, which comes first."""
    present = ~scores.isnan()
    enough = present.sum(1) >= 2
    return enough & present[:, 0] if distance == "margin" else enough


def _counts(rows: PairInputs, config: LossConfig) -> Bool[Tensor, " row"]:
    if rows.scored is None:
        return torch.zeros(len(rows.anchors), dtype=torch.bool, device=rows.anchors.device)
    return counting_rows(rows.scored.scores, config.distance)


def _counting(rows: PairInputs, config: LossConfig) -> ScoredDocuments:
    """The rows that count."""
    if rows.scored is None:
        empty = rows.anchors.new_zeros((0, 1))
        return ScoredDocuments(empty, empty.double())
    counts = _counts(rows, config)
    return ScoredDocuments(rows.scored.documents[counts], rows.scored.scores[counts])


def _as_logits(scores: Float[Tensor, "row place"], scale: ScoreScale) -> Float[Tensor, "row place"]:
    return scores if scale == "logit" else scores.double().clamp(SATURATED, 1 - SATURATED).logit()


def _kl(
    logits: Float[Tensor, "row place"], scores: Float[Tensor, "row place"], config: LossConfig
) -> Float[Tensor, " row"]:
    absent = scores.isnan()
    wanted = (scores / config.score_temperature).masked_fill(absent, -torch.inf).log_softmax(1)
    found = logits.masked_fill(absent, -torch.inf).log_softmax(1)
    parts = wanted.exp() * (wanted - found).masked_fill(absent, 0.0)
    return parts.sum(1)


def _margin(logits: Float[Tensor, "row place"], scores: Float[Tensor, "row place"]) -> Float[Tensor, " row"]:
    """A document without a score has no margin."""
    present = ~scores[:, 1:].isnan()
    margins = (logits[:, :1] - logits[:, 1:]) - (scores[:, :1] - scores[:, 1:])
    return margins.masked_fill(~present, 0.0).square().sum(1) / present.sum(1)
