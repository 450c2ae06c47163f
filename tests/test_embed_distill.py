"""Regression on a teacher's vectors: its gradients, its projection on several ranks, and what a step makes of both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
from torch import Tensor

from dec2vec.errors import UserError
from tests.loss_references import embed_distill, teacher_rows, vectors
from tests.processes import run_ranks
from train.adapters.projection import initial_projection
from train.config import TrainConfig
from train.losses.checks import check_losses
from train.losses.compute import compute_loss, one_loss
from train.losses.inputs import NO_ID, PairInputs, TeacherInputs
from train.losses.objective import Objective, Temperature
from train.options.data import SourceConfig
from train.options.losses import LossConfig

TEXTS, DIM, TEACHER_DIM = 7, 6, 9
COSINE = LossConfig(kind="embed_distill", teacher="t")
MSE = replace(COSINE, distance="mse")
INFO_NCE = LossConfig(temperature=0.2)
FIXED = Temperature(0.2, learned=False).double()


def matrix_of(teacher: int = TEACHER_DIM, student: int = DIM, seed: int = 5) -> Tensor:
    return vectors(teacher, student, seed)


def by_definition(x: Tensor, rows: TeacherInputs, matrix: Tensor | None, distance: str) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.clone().requires_grad_() for tensor in (x, matrix) if tensor is not None]
    loss = embed_distill(leaves[0], rows, leaves[1] if len(leaves) > 1 else None, distance)
    return loss.detach(), list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("config", [COSINE, MSE], ids=["cosine", "mse"])
@pytest.mark.parametrize("projected", [True, False])
def test_gradients_against_a_float64_loop(config: LossConfig, projected: bool) -> None:
    matrix = matrix_of() if projected else None
    x, rows = vectors(2 * TEXTS, DIM if projected else TEACHER_DIM), teacher_rows(TEXTS)
    found = one_loss(x, rows, config, FIXED, matrix)
    loss, gradients = by_definition(x, rows, matrix, config.distance or "cosine")
    torch.testing.assert_close(found.loss, loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.embedding_gradient, gradients[0], rtol=1e-9, atol=1e-12)
    assert found.embedding_gradient.abs().max() > 1e-3 and not found.log_temperature_gradient.any()
    if projected:
        torch.testing.assert_close(found.projection_gradient, gradients[1], rtol=1e-9, atol=1e-12)
        other = by_definition(x, rows, matrix_of(seed=6), config.distance or "cosine")[1][1]
        assert (found.projection_gradient - other).abs().max() > 1e-3  # the comparison can fail
    else:
        assert found.projection_gradient is None


@pytest.mark.parametrize("config", [COSINE, MSE], ids=["cosine", "mse"])
def test_against_sentence_transformers(config: LossConfig) -> None:
    x, rows, matrix = torch.nn.functional.normalize(vectors(TEXTS, DIM), dim=1), teacher_rows(TEXTS), matrix_of()
    theirs = EmbedDistillLoss(None, distance_metric=config.distance or "cosine")
    theirs.projection = torch.nn.Linear(DIM, TEACHER_DIM, bias=False, dtype=torch.float64)
    theirs.projection.weight.data.copy_(matrix)
    teacher = torch.nn.functional.normalize(rows.vectors, dim=1)
    expected = theirs.compute_loss_from_embeddings([x], [teacher])
    expected.backward()
    found = one_loss(x, rows, config, FIXED, matrix)
    torch.testing.assert_close(found.loss, expected.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.projection_gradient, theirs.projection.weight.grad, rtol=1e-8, atol=1e-12)


def test_a_projection_is_fitted_and_one_of_another_teacher_is_not() -> None:
    """By gradient descent on both; a student that has the teacher's vectors under some map has nothing to learn."""
    rows, matrix = teacher_rows(TEXTS), matrix_of()
    image = torch.linalg.lstsq(matrix[:, :], rows.vectors.T).solution.T
    exact = replace(rows, vectors=image @ matrix.T)
    assert float(one_loss(image, exact, COSINE, FIXED, matrix).loss) == pytest.approx(0, abs=1e-12)
    assert float(one_loss(image, exact, COSINE, FIXED, matrix_of(seed=8)).loss) > 0.1


def test_the_first_dimensions_have_the_first_columns() -> None:
    x, rows, matrix = vectors(TEXTS, DIM), teacher_rows(TEXTS), matrix_of()
    nested = one_loss(x, rows, replace(COSINE, matryoshka=(2,), matryoshka_weights=(0.5,)), FIXED, matrix)
    whole = one_loss(x, rows, COSINE, FIXED, matrix)
    part = one_loss(x[:, :2].contiguous(), rows, COSINE, FIXED, matrix[:, :2])
    torch.testing.assert_close(nested.loss, whole.loss + 0.5 * part.loss)
    assert nested.projection_gradient is not None and whole.projection_gradient is not None
    assert part.projection_gradient is not None
    rest = nested.projection_gradient - whole.projection_gradient
    torch.testing.assert_close(rest[:, :2], 0.5 * part.projection_gradient)
    assert not rest[:, 2:].any() and rest[:, :2].abs().max() > 1e-3


def pair_rows() -> PairInputs:
    anchors, documents = torch.arange(3), 3 + torch.arange(3)
    keys = 100 + anchors
    return PairInputs(anchors, documents, keys, 200 + anchors, keys, torch.full((3,), NO_ID))


def test_beside_info_nce_both_are_summed_with_their_weights() -> None:
    x, rows, matrix = vectors(TEXTS, DIM), teacher_rows(TEXTS), matrix_of()
    losses = (INFO_NCE, replace(COSINE, weight=0.25))
    found = compute_loss(x, pair_rows(), losses, FIXED, {"t": rows}, matrix)
    first, second = one_loss(x, pair_rows(), INFO_NCE, FIXED, matrix), one_loss(x, rows, COSINE, FIXED, matrix)
    assert second.projection_gradient is not None and first.projection_gradient is None
    torch.testing.assert_close(found.loss, first.loss + 0.25 * second.loss)
    torch.testing.assert_close(found.embedding_gradient, first.embedding_gradient + 0.25 * second.embedding_gradient)
    torch.testing.assert_close(found.projection_gradient, 0.25 * second.projection_gradient)
    assert found.parts == (first.loss, second.loss)


SHARES = {2: (5, 2), 3: (3, 0, 4)}


def share(counts: tuple[int, ...], rank: int) -> TeacherInputs:
    """Consecutive rows, of which the first is also the last rank's, with the same key."""
    rows, start = teacher_rows(TEXTS), sum(counts[:rank])
    numbers = [*range(start, start + counts[rank]), *([0] if rank and rank == len(counts) - 1 else [])]
    return TeacherInputs(rows.texts[numbers], rows.vectors[numbers], rows.keys[numbers])


def of_rank(counts: tuple[int, ...]) -> list[Objective]:
    rows, x = share(counts, dist.get_rank()), vectors(TEXTS, DIM)
    return [one_loss(x, rows, config, FIXED, matrix_of()) for config in (COSINE, MSE)]


@pytest.mark.parametrize("world", SHARES)
def test_ranks_equal_one_process(world: int) -> None:
    ranks = run_ranks(world, of_rank, SHARES[world])
    for number, config in enumerate((COSINE, MSE)):
        expected = one_loss(vectors(TEXTS, DIM), share((TEXTS,), 0), config, FIXED, matrix_of())
        parts = [rank[number] for rank in ranks]
        total = torch.stack([part.embedding_gradient for part in parts]).sum(0)
        torch.testing.assert_close(total, expected.embedding_gradient, rtol=1e-9, atol=1e-12)
        for part in parts:
            torch.testing.assert_close(part.loss, expected.loss, rtol=1e-10, atol=0)
            torch.testing.assert_close(part.projection_gradient, expected.projection_gradient, rtol=1e-9, atol=1e-12)
        alone = one_loss(vectors(TEXTS, DIM), share(SHARES[world], 0), config, FIXED, matrix_of())
        assert abs(float(alone.loss - expected.loss)) > 1e-3  # a rank by itself has another loss


@pytest.mark.parametrize(("student", "teacher"), [(6, 4), (4, 6), (5, 5)])
def test_the_first_projection_keeps_cosines_as_far_as_it_can(student: int, teacher: int) -> None:
    matrix = initial_projection(student, teacher, seed=3).double()
    assert matrix.shape == (teacher, student)
    product = matrix @ matrix.T if teacher <= student else matrix.T @ matrix
    torch.testing.assert_close(product, torch.eye(min(student, teacher), dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.equal(initial_projection(student, teacher, 3), initial_projection(student, teacher, 3))
    assert not torch.equal(initial_projection(student, teacher, 3), initial_projection(student, teacher, 4))


def config_of(*losses: LossConfig) -> TrainConfig:
    return TrainConfig(data=tuple(SourceConfig(path="pairs.jsonl", losses=(loss,)) for loss in losses))


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([COSINE, replace(COSINE, teacher="u")], "loss.teacher: a run trains one projection.* have t and u"),
        ([COSINE, replace(MSE, projection="keep")], "loss.projection: a run trains one.* have drop and keep"),
        ([replace(COSINE, projection="keep", matryoshka=(4,))], "loss.matryoshka: with loss.projection keep"),
        ([replace(COSINE, distance="kl")], "loss.distance kl: use cosine or mse with loss.kind embed_distill"),
        ([replace(COSINE, learn_temperature=True)], "loss.learn_temperature: loss.distance cosine has no temperature"),
        ([replace(COSINE, teacher=None)], "loss.kind embed_distill: give the folder of a teacher"),
        ([replace(INFO_NCE, projection="keep")], "loss.projection is not used by loss.kind infonce"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(losses: list[LossConfig], message: str) -> None:
    check_losses(config_of(COSINE, MSE, INFO_NCE, replace(INFO_NCE, matryoshka=(4,))))
    with pytest.raises(UserError, match=message):
        check_losses(config_of(*losses))
