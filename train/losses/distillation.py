"""Distillation from a teacher's vectors: the student's cosines between texts should equal the teacher's.

Only cosines are compared, so teacher and student may have vectors of different length. The self-comparison of a text
is left out everywhere: it is 1 for both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from train.distributed.collectives import gather_rows
from train.losses.all_pairs import all_pairs, drop_self
from train.losses.inputs import TeacherInputs, is_first
from train.losses.objective import Objective, Temperature
from train.options.losses import Distance

Measure = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student's cosines [row, others], teacher's, student's temperature) -> [row]."""
NEEDED: dict[Distance, int] = {"kl": 3, "margin": 3, "mse": 2, "correlation": 3}
"""Minimum number of texts in a batch; with fewer, the distance is constant."""


def distil(
    embeddings: Float[Tensor, "unique dim"],
    rows: TeacherInputs,
    temperature: Temperature,
    distance: Distance,
    teacher_temperature: float,
) -> Objective:
    """Mean over the texts of the global batch of the distance between both models' cosines with the other texts.

    A text that several ranks hold is the first one's alone, as it counts once in a single process.
    """
    keys, mine = gather_rows(rows.keys)
    kept = is_first(keys)[mine]
    vectors, _ = gather_rows(rows.vectors[kept])
    teacher = F.normalize(vectors.to(embeddings.dtype), dim=1)
    measure = make_distance(distance, teacher_temperature)

    def row_losses(
        cosines: Float[Tensor, "row all"], places: Int[Tensor, row], tau: Float[Tensor, ""]
    ) -> Float[Tensor, row]:
        wanted = teacher[places] @ teacher.T
        return measure(drop_self(cosines, places), drop_self(wanted, places), tau)

    counted = len(teacher) if len(teacher) >= NEEDED[distance] else 0
    return all_pairs(embeddings, rows.texts[kept], temperature, row_losses, counted)


def make_distance(name: Distance, teacher_temperature: float) -> Measure:
    """The distance of that name; the teacher's temperature is a constant that only kl reads."""

    def kl(
        student: Float[Tensor, "row others"], teacher: Float[Tensor, "row others"], tau: Float[Tensor, ""]
    ) -> Float[Tensor, row]:
        """KL from the teacher's softmax over the other texts to the student's (SEED, Fang et al. 2021, eq. 4)."""
        wanted = (teacher / teacher_temperature).log_softmax(1)
        return F.kl_div((student / tau).log_softmax(1), wanted, log_target=True, reduction="none").sum(1)

    return {"kl": kl, "margin": _margin, "mse": _mse, "correlation": _correlation}[name]


def _margin(
    student: Float[Tensor, "row others"], teacher: Float[Tensor, "row others"], tau: Float[Tensor, ""]
) -> Float[Tensor, row]:
    """Margin-MSE (Hofstätter et al. 2020) over all ordered pairs of other texts.

    The mean of ((s_j - s_k) - (t_j - t_k))^2 over j != k is twice the variance of s - t.
    """
    return 2 * (student - teacher).var(1)


def _mse(
    student: Float[Tensor, "row others"], teacher: Float[Tensor, "row others"], tau: Float[Tensor, ""]
) -> Float[Tensor, row]:
    """Mean squared difference of the similarity matrices (Tung & Mori 2019, with cosines)."""
    return (student - teacher).square().mean(1)


def _correlation(
    student: Float[Tensor, "row others"], teacher: Float[Tensor, "row others"], tau: Float[Tensor, ""]
) -> Float[Tensor, row]:
    """One minus Pearson's correlation of a text's row of similarities with the teacher's row (DIST, Huang et al. 2022).

    Teachers often have all cosines between 0.7 and 1: it takes over their order and spacing, not that narrow band.
    """
    wanted, found = (values - values.mean(1, keepdim=True) for values in (teacher, student))
    return 1 - F.cosine_similarity(found, wanted, dim=1)
