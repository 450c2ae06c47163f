"""Ranking losses of graded pairs over the global batch: CoSENT (Su 2022) and AnglE (Li & Li 2024).

A pair enters with one number, so every rank gathers the numbers of all pairs and computes the same global loss; the
slopes at its own numbers lead back to its own embeddings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from train.distributed import gather_rows, sum_over_ranks, world_size
from train.losses.in_batch import in_batch
from train.losses.pair_similarity import angle, cosine
from train.losses.ranking import ranking_loss
from train.objective import Objective, combine
from train.rows import GradedRows
from train.temperature import Temperature

Similarity = Callable[[Tensor, Tensor], Tensor]


def cosent(embeddings: Float[Tensor, "unique dim"], rows: GradedRows, temperature: Temperature) -> Objective:
    """Every pair's cosine shall be above those of the pairs that people found less similar."""
    return _ranked(embeddings, rows, temperature, cosine)


def angle_optimized(
    embeddings: Float[Tensor, "unique dim"],
    rows: GradedRows,
    temperature: Temperature,
    angle_temperature: Temperature,
    weights: tuple[float, float, float],
) -> Objective:
    """AnglE as published (eq. 9): the cosine, in-batch and angle losses, summed with these weights.

    Cosine and in-batch share `temperature`. A weight of 0 leaves a loss out. In-batch, texts known to be alike are no
    negatives, as in InfoNCE.
    """
    losses: tuple[Callable[[], Objective], ...] = (
        lambda: cosent(embeddings, rows, temperature),
        lambda: in_batch(embeddings, rows, temperature),
        lambda: _ranked(embeddings, rows, angle_temperature, angle, learned=False),
    )
    used = [(loss(), weight) for loss, weight in zip(losses, weights, strict=True) if weight]
    return combine([part for part, _ in used], [weight for _, weight in used])


def _ranked(
    embeddings: Float[Tensor, "unique dim"],
    rows: GradedRows,
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
    # each rank has it whole, but GPUs' scans may differ in the last bit, and temperatures must not (`train.drift`)
    return Objective(loss.detach(), at_leaf, sum_over_ranks(slope) / world_size())
