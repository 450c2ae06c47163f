"""Ranking losses of graded pairs over the global batch: CoSENT (Su 2022) and AnglE (Li & Li 2024).

A pair enters with one number, so every rank gathers the numbers of all pairs and computes the same global loss; the
slopes at its own numbers lead back to its own embeddings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from train.distributed.collectives import gather_rows, sum_over_ranks, world_size
from train.losses.inputs import GradedInputs
from train.losses.objective import Objective, Temperature

Similarity = Callable[[Tensor, Tensor], Tensor]


def cosent(embeddings: Float[Tensor, "unique dim"], rows: GradedInputs, temperature: Temperature) -> Objective:
    """Every pair's cosine shall be above those of the pairs that people found less similar."""
    return ranked_pairs(embeddings, rows, temperature, cosine)


def ranked_pairs(
    embeddings: Float[Tensor, "unique dim"],
    rows: GradedInputs,
    temperature: Temperature,
    similarity: Similarity,
    *,
    learned: bool = True,
) -> Objective:
    """`learned` False: the temperature is this loss's own constant, and its slope is nobody's."""
    leaf = embeddings.detach().requires_grad_()
    log_value = temperature.log_value.detach().clone().requires_grad_()
    with torch.enable_grad():
        local = similarity(leaf[rows.first], leaf[rows.second])
        values, mine = gather_rows(local.detach())
        values = values.clone().requires_grad_()
        scores, _ = gather_rows(rows.scores)
        loss = ranking_loss(values / log_value.exp(), scores)
    at_values, slope = torch.autograd.grad(loss, [values, log_value])
    (at_leaf,) = torch.autograd.grad(local, leaf, at_values[mine])
    if not learned:
        return Objective(loss.detach(), at_leaf, torch.zeros_like(slope))
    # each rank has it whole, but GPUs' scans may differ in the last bit, and temperatures must not
    # (`train.distributed.diverged_ranks`)
    return Objective(loss.detach(), at_leaf, sum_over_ranks(slope) / world_size())


def ranking_loss(values: Float[Tensor, pair], scores: Float[Tensor, pair]) -> Float[Tensor, ""]:
    """Zero where all scores are equal. Sorted by score, it takes n log n time and no n x n matrix.

    Pair j's terms are exp(value_j) times the sum of exp(-value_i) over the pairs from the first with a higher score.
    """
    scores, order = scores.sort()
    values = values[order]
    higher = torch.searchsorted(scores, scores, right=True)
    has_higher = higher < len(scores)
    from_here = torch.logcumsumexp(-values.flip(0), dim=0).flip(0)
    terms = values[has_higher] + from_here[higher[has_higher]]
    return torch.cat([values.new_zeros(1), terms]).logsumexp(0)


def cosine(first: Float[Tensor, "pair dim"], second: Float[Tensor, "pair dim"]) -> Float[Tensor, pair]:
    """Cosine of each pair."""
    return (F.normalize(first, dim=1) * F.normalize(second, dim=1)).sum(1)
