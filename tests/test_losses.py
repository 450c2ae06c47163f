"""Losses beside InfoNCE against loops over their definitions, against sentence-transformers, and their properties."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import AnglELoss, CoSENTLoss, DistillKLDivLoss, MarginMSELoss
from sentence_transformers.util import pairwise_cos_sim
from torch import Tensor

from tests.loss_references import CASES, LEARNED, Case, graded_rows, labelled_rows, supcon, teacher_rows, vectors
from train.losses.all_pairs import all_pairs
from train.losses.compute import compute_loss, one_loss
from train.losses.cosent import ranking_loss
from train.losses.infonce.infonce import infonce
from train.losses.inputs import NO_ID, GradedInputs, LabelledInputs, LossInputs, PairInputs
from train.losses.objective import Objective, Temperature
from train.options.losses import LossConfig


def learned(value: float = LEARNED) -> Temperature:
    temperature = Temperature(value, learned=True).double()
    temperature.log_value.data.fill_(math.log(value))
    return temperature


def by_definition(case: Case, x: Tensor, rows: LossInputs) -> Objective:
    """The definition's value and what autograd makes of it."""
    x = x.clone().requires_grad_()
    log_value = torch.tensor(math.log(LEARNED), dtype=torch.float64, requires_grad=True)
    loss = case.reference(x, rows, log_value.exp())
    return Objective(
        loss.detach(), *torch.autograd.grad(loss, [x, log_value], materialize_grads=True, allow_unused=True)
    )


def assert_same(found: Objective, expected: Objective) -> None:
    for name in ("loss", "embedding_gradient", "log_temperature_gradient"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dim", [5, 6])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_loss_and_gradients_against_the_definition(case: Case, dim: int) -> None:
    x, rows = vectors(14, dim), case.rows(7)
    found = one_loss(x, rows, case.config, learned())
    assert_same(found, by_definition(case, x, rows))
    assert found.embedding_gradient.abs().max() > 1e-3
    other = by_definition(case, vectors(14, dim, seed=1), rows)
    assert abs(float(found.loss - other.loss)) > 1e-3  # the comparison can fail


@given(texts=st.integers(3, 9), dim=st.integers(2, 7), seed=st.integers(0, 2**20))
@settings(max_examples=4)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_any_shape_and_order(case: Case, texts: int, dim: int, seed: int) -> None:
    x, rows = vectors(2 * texts, dim, seed), case.rows(texts)
    order = torch.randperm(texts, generator=torch.Generator().manual_seed(seed))
    shuffled = type(rows)(*(tensor[order] for tensor in vars(rows).values()))
    found = one_loss(x, rows, case.config, learned())
    assert_same(found, one_loss(x, shuffled, case.config, learned()))
    assert_same(found, by_definition(case, x, rows))
    assert found.embedding_gradient.isfinite().all()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("texts", [0, 1])
def test_nothing_to_compare_asks_for_nothing(case: Case, texts: int) -> None:
    rows = case.rows(2)
    rows = type(rows)(*(tensor[:texts] for tensor in vars(rows).values()))
    found = one_loss(vectors(4, 6), rows, case.config, learned())
    assert float(found.loss) == 0
    assert not found.embedding_gradient.any() and not found.log_temperature_gradient.any()


def graded(pairs: int = 8) -> tuple[Tensor, GradedInputs]:
    return vectors(2 * pairs, 6), graded_rows(pairs)


@pytest.mark.parametrize(("kind", "theirs", "scale"), [("cosent", CoSENTLoss, 20.0), ("angle", AnglELoss, 1.0)])
def test_graded_losses_against_sentence_transformers(kind: str, theirs: type, scale: float) -> None:
    x, rows = graded()
    config = LossConfig(kind=kind, temperature=0.05, angle_weights=(0, 0, 1))
    found = one_loss(x, rows, config, learned())
    leaf = x.clone().requires_grad_()
    expected = theirs(None, scale=scale).compute_loss_from_embeddings(
        [leaf[rows.first], leaf[rows.second]], rows.scores
    )
    (gradient,) = torch.autograd.grad(expected, leaf)
    assert float(found.loss) == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(found.embedding_gradient, gradient, rtol=1e-5, atol=1e-7)
    assert not found.log_temperature_gradient.any()  # a fixed temperature is asked for nothing


def others_as_columns(x: Tensor) -> list[Tensor]:
    """Column k holds, for every text, its k-th other text."""
    count = len(x)
    others = torch.stack([torch.cat([torch.arange(i), torch.arange(i + 1, count)]) for i in range(count)])
    return [x[others[:, k]] for k in range(count - 1)]


def test_distilled_scores_against_sentence_transformers() -> None:
    count, rows = 6, teacher_rows(6)
    x = vectors(count, 5)
    columns = others_as_columns(x)
    scores = torch.stack([pairwise_cos_sim(rows.vectors, column) for column in others_as_columns(rows.vectors)], dim=1)
    config = LossConfig(kind="distil_scores", teacher="t", temperature=0.5, teacher_temperature=0.2)
    theirs = DistillKLDivLoss(None, pairwise_cos_sim, student_temperature=0.5, teacher_temperature=0.2)
    expected = theirs.compute_loss_from_embeddings([x, *columns], scores) / 0.5**2  # theirs is scaled back
    assert float(one_loss(x, rows, config, learned()).loss) == pytest.approx(float(expected), rel=1e-6)

    margin = MarginMSELoss(None, pairwise_cos_sim)
    order = [[first, *(k for k in range(count - 1) if k != first)] for first in range(count - 1)]
    terms = [margin.compute_loss_from_embeddings([x, *(columns[k] for k in ks)], scores[:, ks]) for ks in order]
    found = one_loss(x, rows, replace(config, distance="margin"), learned())
    assert float(found.loss) == pytest.approx(float(sum(terms)) / len(terms), rel=1e-6)


@pytest.mark.parametrize("kind", ["distil_scores", "distil_vectors"])
@pytest.mark.parametrize("is_default", [True, False])
def test_a_student_with_the_teachers_cosines_has_nothing_to_learn(kind: str, is_default: bool) -> None:
    rows = teacher_rows(6)
    other = {"distil_scores": "margin", "distil_vectors": "correlation"}[kind]
    config = LossConfig(
        kind=kind, teacher="t", temperature=0.1, teacher_temperature=0.1, distance=None if is_default else other
    )
    rotation = torch.linalg.qr(vectors(12, 12))[0][:9]  # another length, the same cosines
    found = one_loss(3 * rows.vectors @ rotation, rows, config, learned())
    assert float(found.loss) == pytest.approx(0, abs=1e-9)
    assert found.embedding_gradient.abs().max() < 1e-6
    assert float(one_loss(vectors(6, 12), rows, config, learned()).loss) > 1e-2


def test_correlation_ignores_the_band_of_the_teachers_cosines() -> None:
    """A constant added to all cosines (a common direction) is not taken over; mse would."""
    rows = teacher_rows(6)
    unit = torch.nn.functional.normalize(rows.vectors, dim=1)
    narrow = replace(rows, vectors=torch.cat([unit, torch.full((6, 1), 3.0, dtype=torch.float64)], dim=1))
    config = LossConfig(kind="distil_vectors", teacher="t", distance="correlation")
    assert float(one_loss(unit, narrow, config, learned()).loss) == pytest.approx(0, abs=1e-12)
    assert float(one_loss(unit, narrow, replace(config, distance="mse"), learned()).loss) > 0.1


def test_ranking_follows_the_order_of_the_scores() -> None:
    values = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    right, wrong = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([2.0, 1.0, 0.0])
    assert ranking_loss(values * 20, right) < 0.01 < 10 < ranking_loss(values * 20, wrong)
    assert ranking_loss(values * 20, torch.ones(3)) == 0
    assert torch.autograd.gradcheck(lambda v: ranking_loss(v, right), [values.requires_grad_()])


def test_angle_has_a_slope_where_the_cosine_is_flat() -> None:
    """Why AnglE: two all but equal vectors still move each other."""
    x = torch.tensor([[1.0, 0.0], [1.0, 1e-4], [1.0, 0.0], [0.9, 0.1]], dtype=torch.float64)
    first, second = torch.tensor([0, 2]), torch.tensor([1, 3])
    rows = GradedInputs(first, second, torch.tensor([1.0, 0.0]), first, second)
    flat = one_loss(x, rows, LossConfig(kind="cosent", temperature=1.0), learned())
    steep = one_loss(x, rows, LossConfig(kind="angle", angle_weights=(0, 0, 1)), learned())
    assert flat.embedding_gradient[0].norm() < 1e-3 < 1e-1 < steep.embedding_gradient[0].norm()


@pytest.mark.parametrize(
    "pairs",
    ["AB1 AC0", "AB1 AD1 AC0", "AB1 DB1 AC0", "AB1 AD1 DC0"],
    ids=["copy", "two positives", "one positive of two", "copy of a positive in another pair"],
)
def test_texts_alike_are_no_negatives(pairs: str) -> None:
    """Vectors of which nothing can be better have no in-batch loss, though a text or its positive comes again."""
    first, second = (torch.tensor([ord(pair[side]) for pair in pairs.split()]) for side in (0, 1))
    scores = torch.tensor([float(pair[2]) for pair in pairs.split()])
    x = torch.ones(90, 2, dtype=torch.float64)
    x[ord("C")] *= -1
    config = LossConfig(kind="angle", angle_weights=(0, 1, 0), temperature=0.05)
    assert float(one_loss(x, GradedInputs(first, second, scores, first, second), config, learned()).loss) < 1e-12
    apart = GradedInputs(first, second, scores, torch.arange(len(first)), 50 + torch.arange(len(first)))
    assert float(one_loss(x, apart, config, learned()).loss) > 0.1  # texts that only have equal vectors


def test_supcon_is_the_published_outer_sum() -> None:
    """L_out, not L_in, whose logarithm is outside the mean; labels matter."""
    x, rows = vectors(10, 6), labelled_rows(10)
    found = float(one_loss(x, rows, CASES["supcon"].config, learned()).loss)
    unit = torch.nn.functional.normalize(x, dim=1)
    shares = (unit @ unit.T / LEARNED).fill_diagonal_(-torch.inf).softmax(1)
    same = (rows.labels[:, None] == rows.labels).fill_diagonal_(False)
    has = same.any(1)
    inner = -((shares * same).sum(1)[has] / same.sum(1)[has]).log().mean()
    assert found > float(inner) + 1e-3  # Jensen
    shuffled = LabelledInputs(rows.texts, rows.labels.roll(1))
    assert abs(float(one_loss(x, shuffled, CASES["supcon"].config, learned()).loss) - found) > 1e-3
    assert float(supcon(x, rows, torch.tensor(LEARNED))) == pytest.approx(found, rel=1e-6)


def test_tiles_change_nothing() -> None:
    x, texts, temperature = vectors(9, 4), torch.arange(9), learned()

    def squares(cosines: Tensor, places: Tensor, tau: Tensor) -> Tensor:
        return (cosines / tau).square().sum(1) * (places + 1)

    whole = all_pairs(x, texts, temperature, squares, 9)
    for tile in (1, 20, 81):
        assert_same(all_pairs(x, texts, temperature, squares, 9, tile), whole)


PAIRS = PairInputs(
    *(torch.arange(4) + start for start in (0, 4, 10, 20)), torch.arange(10, 14), torch.full((4,), NO_ID)
)


@pytest.mark.parametrize("weights", [(), (0.5, 2.0)])
def test_matryoshka_sums_the_loss_of_each_prefix(weights: tuple[float, ...]) -> None:
    """Value and gradient of the definition, the full width being among the sizes though not listed."""
    config = LossConfig(matryoshka=(2, 5), matryoshka_weights=weights, learn_temperature=True)
    x, plain = vectors(8, 6), LossConfig()
    found = one_loss(x, PAIRS, config, learned())
    sizes = dict(zip((2, 5), weights or (1.0, 1.0), strict=True)) | {6: 1.0}
    parts = {size: infonce(x[:, :size], PAIRS, plain, learned()) for size in sizes}
    assert float(found.loss) == pytest.approx(sum(w * float(parts[size].loss) for size, w in sizes.items()))
    slope = sum(w * float(parts[size].log_temperature_gradient) for size, w in sizes.items())
    assert float(found.log_temperature_gradient) == pytest.approx(slope)

    def value(leaf: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for size, weight in sizes.items():
            unit = torch.nn.functional.normalize(leaf[:, :size], dim=1)
            logits = unit[:4] @ unit[4:].T / LEARNED
            total = total + weight * torch.nn.functional.cross_entropy(logits, torch.arange(4))
        return total

    (gradient,) = torch.autograd.grad(value(leaf := x.clone().requires_grad_()), leaf)
    torch.testing.assert_close(found.embedding_gradient, gradient, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(found.embedding_gradient, parts[6].embedding_gradient)


def test_the_listed_full_width_has_its_listed_weight() -> None:
    x = vectors(8, 6)
    alone = one_loss(x, PAIRS, LossConfig(), learned())
    doubled = one_loss(x, PAIRS, LossConfig(matryoshka=(6,), matryoshka_weights=(2.0,)), learned())
    torch.testing.assert_close(doubled.embedding_gradient, 2 * alone.embedding_gradient)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_matryoshka_wraps_any_loss(case: Case) -> None:
    x, rows = vectors(14, 6), case.rows(7)
    found = one_loss(x, rows, replace(case.config, matryoshka=(4,)), learned())
    short, full = by_definition(case, x[:, :4], rows), by_definition(case, x, rows)
    torch.testing.assert_close(found.loss, short.loss + full.loss, rtol=1e-7, atol=1e-9)
    gradient = full.embedding_gradient.clone()
    gradient[:, :4] += short.embedding_gradient
    torch.testing.assert_close(found.embedding_gradient, gradient, rtol=1e-7, atol=1e-9)


def test_losses_of_a_source_add_up_with_their_weights() -> None:
    x, rows = graded()
    losses = (
        LossConfig(kind="cosent", learn_temperature=True, weight=0.25),
        LossConfig(kind="angle", angle_weights=(0, 0, 1), weight=2.0),
    )
    found = compute_loss(x, rows, losses, learned())
    first, second = (one_loss(x, rows, loss, learned()) for loss in losses)
    torch.testing.assert_close(found.loss, 0.25 * first.loss + 2 * second.loss)
    expected = 0.25 * first.embedding_gradient + 2 * second.embedding_gradient
    torch.testing.assert_close(found.embedding_gradient, expected)
    torch.testing.assert_close(found.log_temperature_gradient, 0.25 * first.log_temperature_gradient)


def test_only_a_learning_loss_reads_the_runs_temperature() -> None:
    x, rows = graded()
    fixed = LossConfig(kind="cosent", temperature=0.1)
    at = {value: one_loss(x, rows, fixed, learned(value)).loss for value in (0.1, 0.5)}
    assert at[0.1] == at[0.5]
    learning = replace(fixed, learn_temperature=True)
    assert abs(float(one_loss(x, rows, learning, learned(0.5)).loss - at[0.5])) > 1e-2
