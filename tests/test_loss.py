"""InfoNCE against a float64 loop, and its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.config import LossConfig
from train.contrast import contrast
from train.loss import false_negatives, info_nce
from train.rows import NO_ANCHOR, NO_ID, PairRows
from train.temperature import Temperature


def loop_info_nce(
    queries: np.ndarray, documents: np.ndarray, targets: list[int], ignored: np.ndarray, temperature: float
) -> float:
    """The definition, one pair at a time."""
    total = 0.0
    for i, query in enumerate(queries):
        scores = []
        for j, document in enumerate(documents):
            if ignored[i, j]:
                continue
            cosine = float(query @ document) / float(np.linalg.norm(query) * np.linalg.norm(document))
            scores.append((j, cosine / temperature))
        highest = max(score for _, score in scores)
        total -= dict(scores)[targets[i]] - highest - math.log(sum(math.exp(s - highest) for _, s in scores))
    return total


def loop_masks(anchors: list[str], positives: list[str], negatives: list[str]) -> np.ndarray:
    """Which documents are no negatives of a query, from the texts themselves."""
    documents = positives + negatives
    mask = np.zeros((len(anchors), len(documents)), dtype=bool)
    for i, anchor in enumerate(anchors):
        for j, document in enumerate(documents):
            same_query = j < len(positives) and anchors[j] == anchor
            mask[i, j] = j != i and (document == positives[i] or document == anchor or same_query)
    return mask


def keys(texts: list[str]) -> torch.Tensor:
    return torch.tensor([sum(ord(c) * 31**k for k, c in enumerate(text)) for text in texts])


def rows_of(anchors: list[str], positives: list[str], negatives: list[str]) -> PairRows:
    count, documents = len(anchors), positives + negatives
    return PairRows(
        anchors=torch.arange(count),
        documents=torch.arange(count, count + len(documents)),
        anchor_keys=keys(anchors),
        document_keys=keys(documents),
        document_anchors=torch.cat([keys(anchors), torch.full((len(negatives),), NO_ANCHOR)]),
        document_ids=torch.full((len(documents),), NO_ID),
    )


ANCHORS = ["a", "b", "c", "a", "d"]
POSITIVES = ["p", "q", "r", "s", "p"]
NEGATIVES = ["x", "c", "q", "y"]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("temperature", [0.02, 0.05, 1.0])
def test_loss_and_gradients_against_a_float64_loop(symmetric: bool, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(ANCHORS) * 2 + len(NEGATIVES), 6, generator=generator, dtype=torch.float64)
    rows = rows_of(ANCHORS, POSITIVES, NEGATIVES)
    start = Temperature(temperature, learned=True).double()
    found = contrast(vectors, rows, LossConfig(symmetric=symmetric), start)

    def reference(flat: np.ndarray, log_temperature: float) -> float:
        x = flat.reshape(vectors.shape)
        count = len(ANCHORS)
        mask = loop_masks(ANCHORS, POSITIVES, NEGATIVES)
        value = loop_info_nce(x[:count], x[count:], list(range(count)), mask, math.exp(log_temperature)) / count
        if not symmetric:
            return value
        back = loop_masks(POSITIVES, ANCHORS, [])
        return (
            value
            + loop_info_nce(x[count : 2 * count], x[:count], list(range(count)), back, math.exp(log_temperature))
            / count
        ) / 2

    flat = vectors.numpy().ravel().copy()
    log_temperature = math.log(temperature)
    assert float(found.loss) == pytest.approx(reference(flat, log_temperature), rel=1e-6)
    step = 1e-6
    numeric = np.empty_like(flat)
    for index in range(len(flat)):
        up, down = flat.copy(), flat.copy()
        up[index] += step
        down[index] -= step
        numeric[index] = (reference(up, log_temperature) - reference(down, log_temperature)) / (2 * step)
    np.testing.assert_allclose(found.embedding_gradient.numpy().ravel(), numeric, rtol=2e-4, atol=2e-6)
    slope = (reference(flat, log_temperature + step) - reference(flat, log_temperature - step)) / (2 * step)
    assert float(found.log_temperature_gradient) == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_masks_against_the_texts() -> None:
    rows = rows_of(ANCHORS, POSITIVES, NEGATIVES)
    found = false_negatives(rows.anchor_keys, torch.arange(len(ANCHORS)), rows.document_keys, rows.document_anchors)
    np.testing.assert_array_equal(found.numpy(), loop_masks(ANCHORS, POSITIVES, NEGATIVES))
    assert found.any() and not found.all()


@given(st.integers(2, 12), st.integers(0, 5), st.integers(0, 2**20))
def test_permutation_changes_nothing(count: int, extra: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    documents = torch.randn(count + extra, 5, generator=generator, dtype=torch.float64)
    none = torch.zeros(count, count + extra, dtype=torch.bool)
    order = torch.randperm(count, generator=generator)
    shuffled = torch.cat([documents[:count][order], documents[count:]])
    temperature = torch.tensor(0.1, dtype=torch.float64)
    targets = torch.arange(count)
    before = info_nce(queries, documents, targets, none, temperature)
    after = info_nce(queries[order], shuffled, targets, none, temperature)
    torch.testing.assert_close(before, after)


@given(st.integers(2, 30))
def test_log_n_at_uniform(count: int) -> None:
    same = torch.ones(count, 4)
    none = torch.zeros(count, count, dtype=torch.bool)
    loss = info_nce(same, same, torch.arange(count), none, torch.tensor(0.05)) / count
    assert float(loss) == pytest.approx(math.log(count), rel=1e-5)


def test_zero_at_perfect_separation() -> None:
    eye = torch.eye(8)
    none = torch.zeros(8, 8, dtype=torch.bool)
    assert float(info_nce(eye, eye, torch.arange(8), none, torch.tensor(0.01))) == pytest.approx(0, abs=1e-6)


@given(st.floats(0.0, 0.9), st.floats(0.01, 0.1))
def test_falls_with_the_positive_similarity(cosine: float, gain: float) -> None:
    none = torch.zeros(1, 2, dtype=torch.bool)
    query, other = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0.0, 0.0, 1.0])

    def at(value: float) -> float:
        positive = torch.tensor([value, math.sqrt(1 - value**2), 0.0])
        documents = torch.stack([positive, other])
        return float(info_nce(query, documents, torch.tensor([0]), none, torch.tensor(1.0)))

    assert at(min(1.0, cosine + gain)) < at(cosine)


@pytest.mark.parametrize(("start", "floor"), [(0.05, 0.01), (0.002, 0.002)])
def test_a_learned_temperature_stays_above_its_floor(start: float, floor: float) -> None:
    temperature = Temperature(start, learned=True)
    temperature.hold_floor()
    assert float(temperature().detach()) == pytest.approx(start)
    with torch.no_grad():
        temperature.log_value.fill_(-20.0)
    temperature.hold_floor()
    assert float(temperature().detach()) == pytest.approx(floor)
