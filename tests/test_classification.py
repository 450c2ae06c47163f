"""Yes/no and many-class metrics against scikit-learn, on the sample and on every resample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from eval.config import Criterion
from eval.metrics.classification import (
    baselines,
    choose_threshold,
    class_metrics,
    confusion,
    decision_metrics,
    precision_recall,
    ranking_metrics,
    whole,
)
from eval.metrics.resampling import multiplicities

N = 150
RESAMPLES = 8


def data(*, ties: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.random(N) < 0.4
    scores = labels + 1.5 * generator.standard_normal(N)
    return np.round(scores, 1) if ties else scores, labels


def resamples(n: int = N) -> np.ndarray:
    return np.concatenate([whole(n), *multiplicities(n, RESAMPLES, 3)])


@pytest.mark.parametrize("ties", [False, True])
def test_ap_and_auc(ties: bool) -> None:
    scores, labels = data(ties=ties)
    weights = resamples()
    found = ranking_metrics(scores, labels, weights)
    for index, row in enumerate(weights):
        assert found["ap"][index] == pytest.approx(sk.average_precision_score(labels, scores, sample_weight=row))
        assert found["auc"][index] == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=row))


@pytest.mark.parametrize("threshold", [-9.0, 0.3, 9.0])
def test_decisions_at_a_threshold(threshold: float) -> None:
    scores, labels = data(ties=True)
    accepted = scores >= threshold
    weights = resamples()
    found = decision_metrics(scores, labels, weights, threshold)
    for index, row in enumerate(weights):
        assert found["accuracy"][index] == pytest.approx(sk.accuracy_score(labels, accepted, sample_weight=row))
        for name, metric in (("f1", sk.f1_score), ("precision", sk.precision_score), ("recall", sk.recall_score)):
            assert found[name][index] == pytest.approx(metric(labels, accepted, sample_weight=row, zero_division=0))


def test_one_class_and_nan() -> None:
    scores, labels = data(ties=False)
    alike = np.ones(N, dtype=np.bool_)
    assert ranking_metrics(scores, alike, whole(N))["auc"][0] == 0.5
    assert ranking_metrics(scores, ~alike, whole(N)) == {"ap": [0.0], "auc": [0.5]}
    scores[3] = np.nan
    assert all(np.isnan(value).all() for value in ranking_metrics(scores, labels, whole(N)).values())
    assert all(np.isnan(value).all() for value in decision_metrics(scores, labels, whole(N), 0.5).values())
    threshold = choose_threshold(scores, labels, "accuracy")
    assert threshold is not None and np.isnan(threshold)


def brute_force(scores: np.ndarray, labels: np.ndarray, criterion: Criterion, precision: float) -> float:
    """The value that the best of all thresholds reaches: the best figure, or the most yes at the precision."""
    values = []
    for threshold in [*scores, np.inf]:
        accepted = scores >= threshold
        if criterion == "accuracy":
            values.append(sk.accuracy_score(labels, accepted))
        elif criterion == "f1":
            values.append(sk.f1_score(labels, accepted, zero_division=0))
        elif accepted.any() and labels[accepted].mean() >= precision:
            values.append(accepted.sum())
    return float(max(values, default=-1))


@given(
    rows=st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=20),
    criterion=st.sampled_from(["accuracy", "f1", "precision"]),
)
def test_thresholds_against_all_of_them(rows: list[tuple[int, bool]], criterion: Criterion) -> None:
    scores = np.array([score / 7 for score, _ in rows])
    labels = np.array([label for _, label in rows])
    wanted = 0.8
    found = choose_threshold(scores, labels, criterion, wanted if criterion == "precision" else None)
    best = brute_force(scores, labels, criterion, wanted)
    if found is None:
        assert best == -1
        return
    accepted = scores >= found
    if criterion == "precision":
        assert labels[accepted].mean() >= wanted and accepted.sum() == best
    else:
        assert decision_metrics(scores, labels, whole(len(rows)), found)[criterion][0] == pytest.approx(best)


def test_a_threshold_lies_halfway_and_of_equals_the_highest_is_taken() -> None:
    scores, labels = np.array([0.1, 0.3, 0.5, 0.9]), np.array([False, False, True, True])
    assert choose_threshold(scores, labels, "accuracy") == pytest.approx(0.4)
    assert choose_threshold(scores, labels, "precision", 1.0) == pytest.approx(0.4)
    assert choose_threshold(scores, labels, "precision", 0.6) == pytest.approx(0.2)
    assert choose_threshold(scores, ~labels, "precision", 0.9) is None
    above = choose_threshold(scores, np.array([True, False, False, False]), "accuracy")
    assert above is not None and above > 0.9
    neighbours = np.array([0.5, np.nextafter(0.5, 1)])
    assert choose_threshold(neighbours, np.array([False, True]), "accuracy") == neighbours[1]


def test_precision_recall_curve() -> None:
    scores, labels = data(ties=True)
    precision, recall, levels = precision_recall(scores, labels)
    expected = sk.precision_recall_curve(labels, scores)
    np.testing.assert_allclose(precision[::-1], expected[0][:-1])
    np.testing.assert_allclose(recall[::-1], expected[1][:-1])
    np.testing.assert_array_equal(levels[::-1], expected[2])


def test_many_classes() -> None:
    generator = np.random.default_rng(5)
    gold = generator.choice(6, N, p=[0.4, 0.3, 0.2, 0.07, 0.02, 0.01])
    predicted = np.where(generator.random(N) < 0.5, gold, generator.integers(0, 5, N))
    weights = resamples()
    found = class_metrics(gold, predicted, weights, classes=8)
    for index, row in enumerate(weights):
        rows = np.repeat(np.arange(N), row.astype(int))
        drawn = gold[rows], predicted[rows]
        assert found["accuracy"][index] == pytest.approx(sk.accuracy_score(gold, predicted, sample_weight=row))
        assert found["macro_f1"][index] == pytest.approx(sk.f1_score(*drawn, average="macro", zero_division=0))
    np.testing.assert_array_equal(confusion(gold, predicted, 8), sk.confusion_matrix(gold, predicted, labels=range(8)))


def test_baselines() -> None:
    gold = np.array([2, 2, 2, 0, 1])
    assert {name: value[0] for name, value in baselines(gold, whole(5), 4).items()} == {"chance": 0.25, "majority": 0.6}
    for row in multiplicities(5, 9, 0):
        np.testing.assert_allclose(baselines(gold, row, 4)["majority"], row[:, :3].sum(axis=1) / 5)
