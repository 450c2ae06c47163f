"""Ranking losses of graded pairs over the global batch: CoSENT (Su 2022) and AnglE (Li & Li 2024).

The loss depends on a pair only through one number, its similarity. So every rank gathers these numbers of all pairs,
computes the same global loss, and back-propagates the gradient at its own numbers to its own embeddings.
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
    """Each pair should have a higher cosine than every pair with a lower score."""
    return ranked_pairs(embeddings, rows, temperature, cosine)


def ranked_pairs(
    embeddings: Float[Tensor, "unique dim"],
    rows: GradedInputs,
    temperature: Temperature,
    similarity: Similarity,
    *,
    learned: bool = True,
) -> Objective:
    """The ranking loss of any similarity. `learned` is False if the temperature is a constant without a gradient."""
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
    # every rank has the whole slope, but GPUs may round its sum differently, and temperatures must stay equal
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
