"""Losses that compare each text with all texts of the global batch, and their gradient at the local embeddings.

Every rank computes the rows of its own texts against the texts of all ranks. As in `train.losses.infonce.infonce`,
gathering needs no autograd: gather the vectors, differentiate, sum the gradients over ranks, keep the local rows.
Rows are taken in tiles, so that memory does not grow with the square of the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from train.distributed.collectives import gather_rows, sum_over_ranks
from train.losses.objective import Objective, Temperature, nothing

TILE = 1 << 22
"""Cosines held at once."""
RowLosses = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(cosines of some texts with all texts [row, all], places of these texts among all [row], temperature) -> [row]."""


def all_pairs(
    embeddings: Float[Tensor, "unique dim"],
    texts: Int[Tensor, text],
    temperature: Temperature,
    row_losses: RowLosses,
    counted: int,
    tile: int = TILE,
) -> Objective:
    """Sum over all texts of `row_losses`, divided by `counted`; both must know the same on every rank.

    Nothing to count: a loss of zero. `row_losses` is then not called.
    """
    if counted == 0:
        return nothing(embeddings)
    leaf = embeddings.detach().requires_grad_()
    pool, mine = gather_rows(leaf.detach()[texts])
    pool = pool.clone().requires_grad_()
    log_value = temperature.log_value.detach().clone().requires_grad_()
    inputs = [leaf, pool, log_value]
    loss, gradients = leaf.new_zeros(()), [torch.zeros_like(tensor) for tensor in inputs]
    rows = max(1, tile // len(pool))
    for start in range(0, len(texts), rows):
        local = torch.arange(start, min(start + rows, len(texts)), device=texts.device)
        with torch.enable_grad():
            cosines = F.normalize(leaf[texts[local]], dim=1) @ F.normalize(pool, dim=1).T
            part = row_losses(cosines, mine.start + local, log_value.exp()).sum() / counted
        found = torch.autograd.grad(part, inputs, materialize_grads=True)
        gradients = [total + gradient for total, gradient in zip(gradients, found, strict=True)]
        loss = loss + part.detach()
    at_leaf, at_pool, slope = gradients
    at_leaf = at_leaf.index_add(0, texts, sum_over_ranks(at_pool)[mine])
    return Objective(sum_over_ranks(loss), at_leaf, sum_over_ranks(slope))


def mask_self(matrix: Float[Tensor, "row all"], places: Int[Tensor, row]) -> Float[Tensor, "row all"]:
    """-inf where a text is compared with itself, because it is not a candidate for itself."""
    return matrix.scatter(1, places[:, None], -torch.inf)


def drop_self(matrix: Float[Tensor, "row all"], places: Int[Tensor, row]) -> Float[Tensor, "row others"]:
    """The columns of the other texts only."""
    others = torch.ones_like(matrix, dtype=torch.bool).scatter(1, places[:, None], False)
    return matrix[others].view(len(matrix), -1)
