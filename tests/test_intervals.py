"""Intervals and p-values against scipy, against each other, and where there must be none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, t

from eval.metrics.intervals import MANY, interval, logit_interval, p_value, share_interval, tail
from eval.metrics.resampling import resampled_means
from eval.report.numbers import signed_span, span
from eval.results.results import Result
from eval.systems.subject import Subject
from eval.tasks.figure import Figure
from eval.tasks.pair_files import LabelledPairs
from eval.tasks.pair_task import PairEvidence
from eval.tasks.pairs import PairsTask
from eval.tasks.sts import GradedPairs, SimilarityEvidence, StsTask
from eval.tasks.task import Texts
from eval.tasks.topic_evidence import TopicEvidence, topic_figures

DRAWS = np.random.default_rng(0)


def accuracy(values: np.ndarray, seed: int = 0) -> Figure:
    drawn = resampled_means(values[:, None].astype(np.float64), 500, seed)[:, 0]
    units = values.astype(np.float64)
    return Figure("accuracy", float(values.mean()), drawn, len(values), scale="share", units=units)


def sts(name: str, n: int, texts: str | None = None) -> tuple[StsTask, SimilarityEvidence]:
    gold = np.sort(np.random.default_rng(n).uniform(0, 5, n))
    index = np.arange(n, dtype=np.int64)
    words = [f"{texts or name} {row}" for row in range(n)]
    pairs = GradedPairs(name, Texts(words, []), index, index, gold, np.zeros_like(index), [""])
    scores = gold + 2 * np.random.default_rng(sum(map(ord, name))).standard_normal(n)
    return StsTask(name, "spearman_all", pairs), SimilarityEvidence(pairs, {"cosine": scores})


@pytest.mark.parametrize(("hits", "n"), [(1, 30), (18, 20), (50, 100), (997, 1000)])
def test_of_a_proportion_it_is_wilsons(hits: int, n: int) -> None:
    share = hits / n
    found = share_interval(share, float(np.sqrt(share * (1 - share) / n)), MANY)
    wanted = binomtest(hits, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_a_perfect_proportion_has_no_interval_of_width_zero() -> None:
    """As of 40 of 40; Student's quantile makes it a little wider than Wilson's."""
    found, wanted = share_interval(1.0, 0.0, 40), binomtest(40, 40).proportion_ci(method="wilson")
    assert found.high == pytest.approx(1) and wanted.low - 0.01 < found.low < wanted.low


@pytest.mark.parametrize(("hits", "n"), [(23, 25), (25, 25), (15, 20)])
def test_of_few_yes_and_no_it_is_wilsons_without_students_quantile(hits: int, n: int) -> None:
    share = hits / n
    deviation = float(np.sqrt(share * (1 - share) / n))
    found, wide = (share_interval(share, deviation, n, is_count=is_count) for is_count in (True, False))
    wanted = binomtest(hits, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert wide.low < found.low, "Student's made the intervals of recall too wide"


def test_of_an_area_it_is_symmetric_in_the_logit() -> None:
    """Near 1 it reaches further than Wilson's, downwards most of all."""
    found, wilson = logit_interval(0.96, 0.015, 40), share_interval(0.96, 0.015, 40)
    odds = [float(np.log(value / (1 - value))) for value in (found.low, 0.96, found.high)]
    half = float(t.ppf(0.975, 39)) * np.sqrt(40 / 39) * 0.015 / (0.96 * 0.04)
    assert np.diff(odds).tolist() == pytest.approx([half, half])
    assert wilson.low - found.low > found.high - wilson.high > 0
    assert logit_interval(1.0, 0.0, 40) == share_interval(1.0, 0.0, 40)


def test_a_bias_moves_the_interval() -> None:
    plain, moved = share_interval(0.6, 0.02, 400), share_interval(0.6, 0.02, 400, -0.01)
    assert (moved.low - plain.low, moved.high - plain.high) == pytest.approx((0.01, 0.01), abs=5e-4)
    assert moved.value == 0.6


@pytest.mark.parametrize("size", [20, 50, 1000, MANY])
@pytest.mark.parametrize("resamples", [199, 1000, 2000])
def test_p_is_below_005_where_the_interval_leaves_out_0(size: int, resamples: int) -> None:
    for centre in np.linspace(1.5, 3, 31):
        for sign in (1, -1):
            drawn = sign * (centre + DRAWS.standard_normal(resamples))
            found = interval(float(sign * centre), drawn, size)
            assert (found.low > 0 or found.high < 0) == (p_value(drawn, size) < 0.05)


def test_of_few_units_percentiles_are_expanded_to_students_t() -> None:
    """Of normal bootstrap values the interval is that of a t-test."""
    sample = np.random.default_rng(1).standard_normal(20)
    drawn = sample.mean() + sample.std() / np.sqrt(20) * np.random.default_rng(2).standard_normal(200_000)
    found, wanted = interval(0.0, drawn, 20), t.interval(0.95, 19, sample.mean(), sample.std(ddof=1) / np.sqrt(20))
    assert (found.low, found.high) == pytest.approx(wanted, abs=0.01)
    assert tail(20) < tail(200) < tail(MANY) == 0.025


def test_two_systems_that_hardly_differ_get_no_interval_of_their_difference() -> None:
    right = np.arange(200) % 3 > 0
    other = right.copy()
    other[:9] = ~other[:9]
    gap = accuracy(right).minus(accuracy(other))
    assert gap.interval is None and np.isnan(gap.p_value)
    assert gap.no_interval == "fewer than 10 items on which the two differ (9)"
    other[9] = ~other[9]
    assert accuracy(right).minus(accuracy(other)).interval is not None


def test_two_tests_of_one_size_share_no_draws_and_a_copy_shares_them_all() -> None:
    """Sorted by their gold scores, as published files are: with shared draws the resampled figures agree."""
    (one, a), (other, b), (copy, _) = sts("one", 300), sts("other", 300), sts("copy", 300, "one")
    drawn = [task.figures(found, 400, 0)[0].resampled for task, found in ((one, a), (other, b), (copy, a))]
    assert abs(np.corrcoef(drawn[0], drawn[1])[0, 1]) < 0.15
    np.testing.assert_array_equal(drawn[0], drawn[2])
    together = Figure.mean([one.figures(a, 400, 0)[0], copy.figures(a, 400, 0)[0]])
    assert together.interval == one.figures(a, 400, 0)[0].interval, "a copy is no further evidence"


def test_a_doubled_test_keeps_the_value_and_narrows_the_interval_by_the_root_of_two() -> None:
    """Copied rows are taken for evidence: nothing in a file says whether they are."""
    right = np.random.default_rng(3).random(400) < 0.7
    once, twice = accuracy(right), accuracy(np.tile(right, 2))
    assert once.value == twice.value and once.interval is not None and twice.interval is not None
    widths = [found.high - found.low for found in (once.interval, twice.interval)]
    assert widths[0] / widths[1] == pytest.approx(np.sqrt(2), rel=0.08)


def test_few_pairs_and_few_positives_get_no_interval() -> None:
    task, evidence = sts("few", 19)
    assert {figure.no_interval for figure in task.figures(evidence, 100, 0)} == {"fewer than 20 pairs (19)"}
    empty = LabelledPairs.from_texts("pairs", ["a", "b"], ["c", "d"], [True, False], two_sided=False)
    labels = np.arange(300) < 14
    scores = labels + np.random.default_rng(0).standard_normal(300)
    figures = PairsTask("pairs", "ap", empty).figures(PairEvidence(scores, labels, 0.5), 100, 0)
    by_name = {figure.metric: figure for figure in figures}
    for metric in ("ap", "auc", "f1", "recall"):
        assert by_name[metric].interval is None and by_name[metric].no_interval == "fewer than 20 positive pairs (14)"
    assert by_name["accuracy"].interval is not None and by_name["precision"].interval is not None
    assert by_name["ap"].minus(by_name["ap"]).no_interval == "fewer than 20 positive pairs (14)"


def topics(counts: list[int], seed: int = 0) -> dict[str, Figure]:
    draws, gold = np.random.default_rng(seed), np.repeat(np.arange(len(counts)), counts)
    scores = np.eye(len(counts))[gold] + 0.5 * draws.standard_normal((len(gold), len(counts)))
    names, nothing = [str(code) for code in range(len(counts))], np.zeros((len(gold), 1), dtype=np.float32)
    evidence = TopicEvidence(names, [""] * len(gold), gold, scores, nothing)
    return {figure.metric: figure for figure in topic_figures(evidence, "macro_f1", 300, 0)}


def test_macro_f1_of_rare_classes_gets_no_interval_but_a_difference_does() -> None:
    found = topics([40, 30, 20, 4, 2])
    assert found["macro_f1"].no_interval == "2 of 5 classes with fewer than 5 texts"
    assert found["accuracy"].interval is not None
    gap = topics([40, 30, 20, 4, 2])["macro_f1"].minus(topics([40, 30, 20, 4, 2], 1)["macro_f1"])
    assert gap.interval is not None
    full = topics([40, 30, 20])["macro_f1"]
    assert full.interval is not None and full.interval.low < full.value < full.interval.high


def test_macro_f1_of_many_small_classes_is_moved_or_has_none() -> None:
    some, many = topics([12] * 20)["macro_f1"], topics([5] * 150)["macro_f1"]
    assert some.bias < 0 and some.interval is not None
    assert sum((some.interval.low, some.interval.high)) / 2 > some.value, "resamples are too low, so it moves up"
    assert "too few texts a class" in many.no_interval


def test_the_mean_of_seeds_has_both_kinds_of_spread() -> None:
    right = np.random.default_rng(4).random((3, 400)) < np.array([[0.6], [0.7], [0.8]])
    members = [accuracy(each) for each in right]
    over, texts_only = Figure.over_seeds(members), Figure.mean(members)
    assert over.value == pytest.approx(0.7, abs=0.03) and over.n == 400 and not over.conservative
    widths = [found.high - found.low for found in (over.interval, texts_only.interval) if found is not None]
    deviation = np.std([member.value for member in members], ddof=1) / np.sqrt(3)
    assert widths[0] > 1.9 * t.ppf(0.975, 2) * deviation > 3 * widths[1]
    alike = Figure.over_seeds([members[0]] * 3)
    np.testing.assert_allclose(alike.resampled, members[0].resampled)


def test_runs_that_differ_by_their_texts_alone_have_no_spread_of_seeds() -> None:
    """As those of one skill: their deviation is that of a mean over 200 texts, which the bootstrap has already."""
    drawn = np.random.default_rng(5).random((16, 3, 200)) < 0.7
    widths = []
    for runs in drawn:
        members = [accuracy(each, seed=1) for each in runs]
        widths.append([np.std(figure(members).resampled) for figure in (Figure.over_seeds, Figure.mean)])
    unmoved = sum(both == texts for both, texts in widths)
    assert 4 < unmoved < 16, "in more than half of the draws of 3 runs they differ less than their texts explain"


def test_two_runs_say_beside_the_number_that_their_interval_is_wide() -> None:
    right = np.random.default_rng(4).random((3, 400)) < np.array([[0.6], [0.7], [0.65]])
    tuned, untuned = [accuracy(each) for each in right[:2]], accuracy(right[2])
    over = Figure.over_seeds(tuned)
    assert over.conservative == over.minus(untuned).conservative == "2 runs"
    assert not Figure.mean(tuned).conservative and not Figure.mean(tuned).minus(untuned).conservative
    row = Result.from_figure(Subject("mean", "mean"), "task", over)
    assert span(row.low, row.high, row.no_interval, row.conservative).endswith(" (conservative: 2 runs)")
    assert signed_span(0.1, 0.2) == "+10.00 to +20.00"
