"""Regression on a teacher's vectors (embedding distillation: EmbedDistill, Kim et al. 2023, eq. 7; MSELoss).

The student's unit vector, or its image under a linear projection into the teacher's space, should be the teacher's unit
vector. Each text is compared with itself alone, so no vector is gathered from other ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from train.distributed.collectives import gather_rows, sum_over_ranks
from train.losses.inputs import TeacherInputs, is_first
from train.losses.objective import Objective, nothing
from train.options.losses import Distance


def embed_distill(
    embeddings: Float[Tensor, "unique dim"],
    rows: TeacherInputs,
    projection: Float[Tensor, "teacher_dim dim"] | None,
    distance: Distance,
) -> Objective:
    """Mean over the texts of the global batch of the distance between both models' vectors.

    A text that several ranks hold is the first one's alone, as it counts once in a single process.
    """
    keys, mine = gather_rows(rows.keys)
    is_counted = is_first(keys)
    kept, counted = is_counted[mine], int(is_counted.sum())
    if counted == 0:
        return nothing(embeddings)
    leaf = embeddings.detach().requires_grad_()
    matrix = None if projection is None else projection.detach().requires_grad_()
    teacher = F.normalize(rows.vectors[kept].to(leaf.dtype), dim=1)
    with torch.enable_grad():
        student = F.normalize(leaf[rows.texts[kept]], dim=1)
        student = student if matrix is None else F.linear(student, matrix)
        loss = DISTANCES[distance](student, teacher).sum() / counted
    at_leaf, *at_matrix = torch.autograd.grad(loss, [leaf] if matrix is None else [leaf, matrix])
    whole = sum_over_ranks(at_matrix[0]) if at_matrix else None
    return Objective(sum_over_ranks(loss.detach()), at_leaf, leaf.new_zeros(()), whole)


def _cosine(
    student: Float[Tensor, "row teacher_dim"], teacher: Float[Tensor, "row teacher_dim"]
) -> Float[Tensor, " row"]:
    """One minus the cosine. A projection's length then has no effect, only its direction."""
    return 1 - F.cosine_similarity(student, teacher, dim=1)


def _mse(student: Float[Tensor, "row teacher_dim"], teacher: Float[Tensor, "row teacher_dim"]) -> Float[Tensor, " row"]:
    """Squared difference, averaged over the dimensions as in sentence-transformers: small where there are many."""
    return (student - teacher).square().mean(1)


DISTANCES: Mapping[Distance, Callable[[Tensor, Tensor], Tensor]] = {"cosine": _cosine, "mse": _mse}
