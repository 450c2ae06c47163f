"""Cosines and correlations against scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from scipy.stats import spearmanr

from eval.metrics.correlation import cosine_pairs, spearman, spearman_over_subsets


@given(st.integers(0, 10_000), st.integers(3, 40))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_spearman_as_scipy_with_ties(seed: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, 6, n).astype(float)
    scores = np.round(generator.standard_normal(n), 1)
    if len(set(gold)) > 1 and len(set(scores)) > 1:
        assert spearman(scores, gold) == pytest.approx(spearmanr(scores, gold).statistic, abs=1e-12)
        assert spearman(3 * scores**3 - 1, gold) == pytest.approx(spearman(scores, gold), abs=1e-12)
        assert spearman(-scores, gold) == pytest.approx(-spearman(scores, gold), abs=1e-12)


def test_constant_scores_rank_nothing_and_nan_stays_nan() -> None:
    gold = np.arange(5.0)
    assert spearman(np.ones(5), gold) == 0.0
    assert np.isnan(spearman(np.array([1.0, np.nan, 0.0, 2.0, 3.0]), gold))


def test_three_aggregations_by_hand() -> None:
    generator = np.random.default_rng(1)
    gold, scores = generator.integers(0, 6, 60).astype(float), generator.standard_normal(60)
    subsets = np.repeat([0, 1, 2], [10, 20, 30])
    parts = [spearmanr(scores[subsets == code], gold[subsets == code]).statistic for code in range(3)]
    assert spearman_over_subsets(scores, gold, subsets, "all") == pytest.approx(spearmanr(scores, gold).statistic)
    assert spearman_over_subsets(scores, gold, subsets, "mean") == pytest.approx(sum(parts) / 3)
    weighted = (10 * parts[0] + 20 * parts[1] + 30 * parts[2]) / 60
    assert spearman_over_subsets(scores, gold, subsets, "wmean") == pytest.approx(weighted)


def test_cosines_as_scipy_and_the_zero_vector() -> None:
    generator = np.random.default_rng(0)
    left, right = generator.standard_normal((2, 7, 5)).astype(np.float32)
    expected = [1 - cosine(a.astype(float), b.astype(float)) for a, b in zip(left, right, strict=True)]
    np.testing.assert_allclose(cosine_pairs(left, right), expected, atol=1e-12)
    left[2], left[3, 0], right[4, 0] = 0.0, np.nan, np.inf
    found = cosine_pairs(left, right)
    assert found[2] == 0.0
    assert np.isnan(found[[3, 4]]).all()
    assert np.isfinite(found[[0, 1, 2, 5, 6]]).all()


def test_equal_vectors_give_exactly_equal_cosines() -> None:
    rows = np.tile(np.random.default_rng(0).standard_normal(33).astype(np.float32), (100, 1))
    assert len(set(cosine_pairs(rows, rows))) == 1
