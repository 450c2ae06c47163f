"""From the configured losses of a batch to one objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

from train.losses.angle import angle_optimized
from train.losses.checks import check_rows, distance_of
from train.losses.cosent import cosent
from train.losses.distillation import distil
from train.losses.infonce.infonce import infonce
from train.losses.inputs import GradedInputs, LabelledInputs, LossInputs, PairInputs, TeacherInputs
from train.losses.matryoshka import dimension_weights, nested
from train.losses.objective import Objective, Temperature, combine
from train.losses.regression import embed_distill
from train.losses.reranker import distil_reranker
from train.losses.supcon import supcon
from train.options.losses import LossConfig

Matrix = Float[Tensor, "teacher_dim projected_dim"]
NO_TEACHERS: Mapping[str, TeacherInputs] = MappingProxyType({})


def compute_loss(
    embeddings: Float[Tensor, "unique dim"],
    rows: LossInputs,
    losses: Sequence[LossConfig],
    temperature: Temperature,
    teachers: Mapping[str, TeacherInputs] = NO_TEACHERS,
    projection: Matrix | None = None,
) -> Objective:
    """The sum of a batch's losses, each times its `weight`; one with a teacher compares with that teacher's rows."""
    parts = [
        one_loss(embeddings, rows if loss.teacher is None else teachers[loss.teacher], loss, temperature, projection)
        for loss in losses
    ]
    total = combine(parts, [loss.weight for loss in losses])
    return replace(total, parts=tuple(part.loss for part in parts)) if len(parts) > 1 else total


def by_kind(losses: Sequence[LossConfig], values: Sequence[float]) -> dict[str, float]:
    """The values by `loss_KIND`, and by `loss_KIND_2` for the second loss of a kind; empty for a single loss."""
    found: dict[str, float] = {}
    for loss, value in zip(losses if values else (), values, strict=True):
        name = f"loss_{loss.kind}"
        repeated = sum(key == name or key.startswith(f"{name}_") for key in found)
        found[name if not repeated else f"{name}_{repeated + 1}"] = value
    return found


def one_loss(
    embeddings: Float[Tensor, "unique dim"],
    rows: LossInputs,
    config: LossConfig,
    temperature: Temperature,
    projection: Matrix | None = None,
) -> Objective:
    """One loss over the global batch, at every nested size where it is a Matryoshka; its weight is not applied.

    `temperature` is the run's learned one; a loss that doesn't learn divides by its own constant. `projection` maps the
    vectors into the space of the run's teacher, and its first columns the first dimensions.
    """
    tau = temperature if config.learn_temperature else _constant(config.temperature, embeddings)
    if config.matryoshka:
        weights = dimension_weights(config, embeddings.shape[1])
        found = nested(embeddings, weights, lambda part: _at_one_size(part, rows, config, tau, projection))
    else:
        found = _at_one_size(embeddings, rows, config, tau, projection)
    if config.learn_temperature:
        return found
    return replace(found, log_temperature_gradient=torch.zeros_like(found.log_temperature_gradient))


def _at_one_size(
    embeddings: Float[Tensor, "unique dim"],
    rows: LossInputs,
    config: LossConfig,
    temperature: Temperature,
    projection: Matrix | None,
) -> Objective:
    match config.kind, rows:
        case "infonce", PairInputs():
            return infonce(embeddings, rows, config, temperature)
        case "cosent", GradedInputs():
            return cosent(embeddings, rows, temperature)
        case "angle", GradedInputs():
            return angle_optimized(embeddings, rows, temperature, config.angle_weights)
        case "supcon", LabelledInputs():
            return supcon(embeddings, rows, temperature)
        case "distil_scores" | "distil_vectors", TeacherInputs():
            return distil(embeddings, rows, temperature, distance_of(config), config.teacher_temperature)
        case "embed_distill", TeacherInputs():
            matrix = projection if projection is None else projection[:, : embeddings.shape[1]]
            return embed_distill(embeddings, rows, matrix, distance_of(config))
        case "distil_reranker", PairInputs():
            return distil_reranker(embeddings, rows, config, temperature)
    check_rows(config.kind, type(rows), "this batch")
    raise AssertionError(config.kind)


def _constant(value: float, like: Tensor) -> Temperature:
    """Float64 embeddings (tests) get a float64 number; reduced precision never reaches it."""
    return Temperature(value, learned=False).to(like.device, torch.promote_types(like.dtype, torch.float32))
