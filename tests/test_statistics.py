"""The fast bootstrap against a plain loop over resampled rows."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp

from eval.metrics.correlation import Aggregation, spearman_over_subsets
from eval.metrics.statistics import CHUNK, Bootstrap, interval, p_value


def data(n: int, *, ties: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, 26, n) / 5
    scores = gold + 2 * generator.standard_normal(n)
    return gold, np.round(scores) if ties else scores, generator.integers(0, 3, n)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("aggregation", ["all", "mean", "wmean"])
def test_equals_a_loop_over_resampled_rows(ties: bool, aggregation: Aggregation) -> None:
    gold, scores, subsets = data(90, ties=ties)
    found = Bootstrap(gold, subsets, resamples=CHUNK + 9, seed=3).aggregations(scores)[aggregation]
    assert found.shape == (CHUNK + 9,)
    weights = np.bincount(subsets) if aggregation == "wmean" else np.ones(3)
    for index in range(0, CHUNK + 9, 5):
        rows = np.random.default_rng((3, 90, index)).integers(0, 90, 90)
        g, s, u = gold[rows], scores[rows], subsets[rows]
        if aggregation == "all":
            expected = spearmanr(s, g).statistic
        else:
            parts = [spearmanr(s[u == code], g[u == code]).statistic for code in range(3)]
            expected = np.average(parts, weights=weights)
        assert found[index] == pytest.approx(expected, abs=1e-6)


def test_same_seed_same_resamples_and_another_seed_others() -> None:
    gold, scores, subsets = data(50, ties=False)
    first, again, other = (Bootstrap(gold, subsets, resamples=40, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.correlations(scores), again.correlations(scores))
    assert (first.correlations(scores) != other.correlations(scores)).any()
    more = Bootstrap(gold, subsets, resamples=80, seed=1).correlations(scores)
    np.testing.assert_array_equal(first.correlations(scores), more[:40])


def test_constant_scores_get_zero_and_nan_stays_nan() -> None:
    gold, scores, subsets = data(30, ties=False)
    bootstrap = Bootstrap(gold, subsets, resamples=20, seed=0)
    assert (bootstrap.correlations(np.ones(30)) == 0).all()
    scores[4] = np.nan
    assert np.isnan(bootstrap.correlations(scores)).all()


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    covered = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        x, y = generator.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 200).T
        resampled = Bootstrap(y, np.zeros(200, dtype=np.int64), resamples=200, seed=seed).correlations(x)
        found = interval(0.0, resampled)
        covered += found.low <= 6 / np.pi * np.arcsin(0.3) <= found.high
    assert 88 <= covered <= 100


def test_paired_difference_is_narrower_than_unpaired() -> None:
    gold, scores, subsets = data(400, ties=False)
    rival = scores + 0.1 * np.random.default_rng(9).standard_normal(400)
    bootstrap = Bootstrap(gold, subsets, resamples=300, seed=0)
    one, two = bootstrap.correlations(scores), bootstrap.correlations(rival)
    assert (one - two).std() < 0.3 * np.hypot(one.std(), two.std())
    assert interval(0.0, one - one).low == interval(0.0, one - one).high == 0.0


def test_fast_enough_for_many_systems() -> None:
    """37,000 pairs x 1000 resamples x 100 systems must take minutes at the very most."""
    gold, scores, _ = data(3750, ties=False)
    bootstrap = Bootstrap(gold, np.zeros(3750, dtype=np.int64), resamples=1000, seed=0)
    bootstrap.correlations(scores)
    start = time.perf_counter()
    bootstrap.correlations(-scores)
    assert time.perf_counter() - start < 1.0


def test_value_agrees_with_the_metric_on_the_whole_sample() -> None:
    gold, scores, subsets = data(500, ties=False)
    resampled = Bootstrap(gold, subsets, resamples=500, seed=0).correlations(scores)
    assert abs(resampled.mean() - spearman_over_subsets(scores, gold, subsets, "all")) < 0.01


def test_p_value_against_a_t_test() -> None:
    """Of a mean difference, whose bootstrap distribution is normal: the paired t-test says the same."""
    generator = np.random.default_rng(4)
    for shift in (0.0, 0.1, 0.2, 0.3):
        sample = generator.standard_normal(200) + shift
        resampled = np.array([generator.choice(sample, 200).mean() for _ in range(4000)])
        assert p_value(resampled) == pytest.approx(ttest_1samp(sample, 0).pvalue, abs=0.03)


def test_p_value_agrees_with_the_interval_and_has_a_floor() -> None:
    generator = np.random.default_rng(5)
    for centre in np.linspace(-4, 4, 41):
        resampled = centre + generator.standard_normal(999)
        found = interval(float(centre), resampled)
        assert (found.low > 0 or found.high < 0) == (p_value(resampled) < 0.05)
        assert p_value(resampled) == p_value(-resampled)
    assert p_value(np.full(999, 0.2)) == pytest.approx(0.002)
    assert p_value(np.zeros(99)) == 1.0
    assert np.isnan(p_value(np.array([0.1, np.nan])))
