"""InfoNCE (van den Oord et al. 2018) the plain way: every cosine at once, differentiated by autograd.

tiled.py computes the same without ever holding the matrix of cosines; this is what it is tested against, and
what `infonce(..., tiles=False)` runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from train.losses.infonce.candidates import Direction
from train.losses.infonce.false_negatives import false_negatives
from train.losses.infonce.together import Together


def info_nce(
    queries: Float[Tensor, "query dim"],
    positives: Float[Tensor, "query dim"],
    negatives: Sequence[tuple[Tensor, Tensor, Tensor]],
    temperature: Float[Tensor, ""],
    *,
    margin: float | None = None,
    hardness: float = 0.0,
    together: Together | None = None,
) -> Float[Tensor, ""]:
    """Sum over queries of -log(e^(c+ / t) / (e^(c+ / t) + sum of w e^(c / t) over the negatives)), c: cosines.

    Of unit vectors. `negatives`: vectors on the left, one for each query (itself or its positive), candidates, and
    which of those are ignored. `margin` also ignores cosines above c+ - margin. w = e^(hardness * c), taken as a
    constant (Lan et al. 2025, eq. 5). The sum, not the mean: ranks hold unequal shares. `together` as in
    `train.losses.infonce.several`: the weighted sum, and with `joint` the positives of a query in place of one.
    Positives of other ranks get no gradient here.
    """
    positive = (queries * positives).sum(1, keepdim=True)
    counted = None if together is None else together.counted(positive[:, 0], temperature)
    highest = positive if counted is None else counted.highest[:, None]
    logits = [positive / temperature if counted is None else counted.targets[:, None]]
    for left, candidates, ignored in negatives:
        cosines = left @ candidates.T
        if margin is not None:
            ignored = ignored | (cosines > highest - margin)
        weighted = cosines / temperature + hardness * cosines.detach()
        logits.append(weighted.masked_fill(ignored, -torch.inf))
    own = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    if counted is None:
        return F.cross_entropy(torch.cat(logits, dim=1), own, reduction="sum")
    return (counted.weights * F.cross_entropy(torch.cat(logits, dim=1), own, reduction="none")).sum()


def plain_info_nce(
    direction: Direction, log_temperature: Float[Tensor, ""], *, margin: float | None, hardness: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Summed loss and its derivative by log(temperature); adds the gradient at the unit rows to theirs."""
    queries, positives = (_leaf(rows.all_units()) for rows in (direction.queries, direction.positives))
    pools = [_leaf(term.pool.all_units()) for term in direction.terms]
    log_value = _leaf(log_temperature)
    with torch.enable_grad():
        negatives = [
            (
                queries if term.left is direction.queries else positives,
                pool,
                false_negatives(term.row_keys, term.column_keys),
            )
            for term, pool in zip(direction.terms, pools, strict=True)
        ]
        loss = info_nce(
            queries,
            positives,
            negatives,
            log_value.exp(),
            margin=margin,
            hardness=hardness,
            together=direction.together,
        )
    *gradients, slope = torch.autograd.grad(loss, [queries, positives, *pools, log_value])
    targets = [direction.queries, direction.positives, *(term.pool for term in direction.terms)]
    for rows, gradient in zip(targets, gradients, strict=True):
        rows.add(0, gradient)
    return loss.detach(), slope


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()
