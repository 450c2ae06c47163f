"""The linear post-processings against numpy and scikit-learn, and the fast sweep against applying each map."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from sklearn.covariance import OAS
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from dec2vec.errors import UserError
from dec2vec.vectors.affine import Basis
from dec2vec.vectors.whitening import Spectrum, Whitening, fit_whitening, soft_scales
from eval.config import PostName
from eval.metrics.correlation import cosine_pairs, spearman
from eval.postprocess.families import FITTED, SIZED, Candidate, Source, candidates, gaussian, right_singular
from eval.postprocess.scores import correlations, shared_cosines
from eval.postprocess.text_statistics import Fitted
from eval.tasks.sts import GradedPairs
from eval.tasks.task import Texts
from tests.test_whitening import cosines, moments_of, sample

D = 12
DATA = sample(400, D)
FRESH = sample(60, D, seed=0)[:40] + 0.01
HEAD = np.random.default_rng(3).standard_normal((50, D)) * np.linspace(3.0, 0.2, D)


def source(data: np.ndarray = DATA, dimensions: tuple[int, ...] = (12, 6, 3)) -> Source:
    width = data.shape[1]
    head = right_singular(HEAD.astype(np.float32)) if width == D else None
    return Source(width, dimensions, Fitted(moments_of(data)), head, gaussian(width))


def made(post: PostName, of: Source | None = None) -> dict[str, Candidate]:
    return {candidate.label: candidate for candidate in candidates(post, of or source())}


def mapped(candidate: Candidate, x: np.ndarray) -> np.ndarray:
    """In float64."""
    affine = candidate.affine()
    return np.asarray((x - affine.mean) @ affine.kernel)


def agree(candidate: Candidate, expected: np.ndarray, x: np.ndarray = FRESH) -> None:
    assert np.abs(cosines(mapped(candidate, x)) - cosines(expected)).max() < 1e-9


def graded(texts: int, pairs: int = 30) -> GradedPairs:
    generator = np.random.default_rng(5)
    left, right = (generator.integers(0, texts, pairs) for _ in range(2))
    gold = generator.random(pairs)
    names = Texts([str(i) for i in range(texts)], [])
    return GradedPairs("dev", names, left, right, gold, np.zeros(pairs, dtype=np.int64), ["all"])


def test_labels() -> None:
    labels = {post: list(made(post)) for post in get_args(PostName)}
    assert [labels[post] for post in ("raw", "centre", "standardise")] == [["raw"], ["centre"], ["standardise"]]
    assert labels["abtt"] == ["abtt-1", "abtt-2", "abtt-4", "abtt-8"]
    assert labels["pca"] == ["pca-12", "pca-6", "pca-3"]
    assert labels["whiten"] == ["whiten-12", "whiten-6", "whiten-3"]
    assert labels["shrunk_whiten"] == ["shrunk_whiten-12", "shrunk_whiten-6", "shrunk_whiten-3"]
    assert len(labels["soft_whiten"]) == 18 and "soft_whiten-6-p0.5-r0" in labels["soft_whiten"]
    for post in ("embfilter", "random", "truncate"):
        assert labels[post] == [f"{post}-6", f"{post}-3"]
    for post in get_args(PostName):
        for label, candidate in made(post).items():
            assert candidate.post == post and candidate.affine().dimension == candidate.k
            if post in SIZED:
                assert label.split("-")[1] == str(candidate.k)


def test_centre_and_standardise_as_scikit_learn() -> None:
    agree(made("centre")["centre"], FRESH - DATA.mean(axis=0))
    agree(made("standardise")["standardise"], StandardScaler().fit(DATA).transform(FRESH))


def test_a_dimension_that_does_not_vary_is_dropped() -> None:
    data = DATA.copy()
    data[:, 4] = 1e4
    candidate = made("standardise", source(data))["standardise"]
    assert candidate.k == D - 1
    others = np.delete(np.arange(D), 4)
    agree(candidate, StandardScaler().fit(data[:, others]).transform(FRESH[:, others]))


@pytest.mark.parametrize("k", [12, 6, 3])
def test_pca_as_scikit_learn(k: int) -> None:
    candidate = made("pca")[f"pca-{k}"]
    agree(candidate, PCA(n_components=k).fit(DATA).transform(FRESH))
    whitened = cosines(mapped(made("whiten")[f"whiten-{k}"], FRESH))
    assert np.abs(whitened - cosines(mapped(candidate, FRESH))).mean() > 0.05  # another thing, and another name


def test_pca_of_full_rank_is_centring_and_nothing_else() -> None:
    agree(made("pca")["pca-12"], mapped(made("centre")["centre"], FRESH))


@pytest.mark.parametrize("removed", [1, 2, 4])
def test_all_but_the_top_as_published(removed: int) -> None:
    """x - mean - sum of its projections on the first principal components."""
    top = PCA(n_components=removed).fit(DATA).components_
    centred = FRESH - DATA.mean(axis=0)
    agree(made("abtt")[f"abtt-{removed}"], centred - centred @ top.T @ top)


def test_whitenings_are_fit_whitening() -> None:
    for post, shrinkage in (("whiten", 0.0), ("shrunk_whiten", OAS().fit(DATA).shrinkage_)):
        for k in (12, 6, 3):
            found = made(post)[f"{post}-{k}"].affine({"prompt": "bare"})
            expected = fit_whitening(moments_of(DATA), k, shrinkage)
            assert isinstance(found, Whitening)
            np.testing.assert_allclose(found.kernel, expected.kernel, rtol=1e-9)
            assert found.provenance["rho"] == pytest.approx(shrinkage, rel=1e-9)
            assert found.provenance["post"] == f"{post}-{k}" and found.provenance["prompt"] == "bare"


def test_soft_whitening_lies_between_pca_and_whitening() -> None:
    spectrum = source().spectrum
    soft = [
        Candidate("soft_whiten", "s", spectrum.basis, soft_scales(spectrum, 6, power=p)[0]) for p in (0.0, 0.5, 1.0)
    ]
    agree(soft[0], mapped(made("pca")["pca-6"], FRESH))
    agree(soft[2], mapped(made("whiten")["whiten-6"], FRESH))
    variances = [np.var(mapped(candidate, DATA), axis=0, ddof=1) for candidate in soft]
    np.testing.assert_allclose(variances[2], 1.0, rtol=1e-9)
    np.testing.assert_allclose(variances[1], np.sqrt(variances[0]), rtol=1e-9)


def test_soft_zca_is_the_same_in_any_rotation() -> None:
    """U (L + e)^(-1/2) U^T, written with a matrix function."""
    covariance = np.cov(DATA.T)
    values, vectors = np.linalg.eigh(covariance + 0.1 * np.trace(covariance) / D * np.eye(D))
    zca = vectors @ np.diag(values**-0.5) @ vectors.T
    agree(made("soft_whiten")["soft_whiten-12-p1-r0.1"], (FRESH - DATA.mean(axis=0)) @ zca)


@pytest.mark.parametrize("k", [6, 3])
def test_embfilter_keeps_the_middle_right_singular_vectors(k: int) -> None:
    directions = np.linalg.svd(HEAD, full_matrices=False)[2]
    start = (D - k) // 2
    candidate = made("embfilter")[f"embfilter-{k}"]
    assert np.abs(cosines(mapped(candidate, FRESH)) - cosines(FRESH @ directions[start : start + k].T)).max() < 1e-5
    top = cosines(FRESH @ directions[:k].T)
    assert np.abs(cosines(mapped(candidate, FRESH)) - top).max() > 0.01


def test_embfilter_of_a_head_of_another_width_is_refused() -> None:
    with pytest.raises(UserError, match="different widths"):
        list(candidates("embfilter", Source(8, (4,), None, right_singular(HEAD))))


def test_truncation_and_random_projection_need_no_data() -> None:
    empty = Source(D, (12, 6, 3))
    agree(made("truncate", empty)["truncate-3"], FRESH[:, :3])
    agree(made("random", empty)["random-6"], FRESH @ gaussian(D).kernel(np.ones(D))[:, :6])
    np.testing.assert_array_equal(gaussian(7).kernel(np.ones(7)), gaussian(7).kernel(np.ones(7)))
    wide = np.random.default_rng(0).standard_normal((30, 512))
    drawn = {c.label: c for c in candidates("random", Source(512, (512, 256)))}["random-256"]
    assert np.abs(cosines(mapped(drawn, wide)) - cosines(wide)).max() < 0.3  # Johnson-Lindenstrauss
    for post in FITTED:
        with pytest.raises(UserError, match="no training text"):
            list(candidates(post, empty))


@pytest.mark.parametrize("post", sorted(FITTED))
def test_degenerate_text_is_refused(post: PostName) -> None:
    with pytest.raises(UserError, match="all 90 vectors are equal"):
        made(post, source(np.full((90, 4), 0.1), (4, 2)))
    with pytest.raises(UserError, match="at least two sentences, got 1"):
        made(post, source(DATA[:1]))


def test_little_text() -> None:
    """Of 8 sentences in 12 dimensions seven directions are known: no k between them and 12, none unshrunk near 7."""
    few = source(DATA[:8], (12, 9, 7, 6, 3))
    assert list(made("pca", few)) == ["pca-12", "pca-7", "pca-6", "pca-3"]
    agree(made("pca", few)["pca-12"], FRESH - DATA[:8].mean(axis=0))
    soft = set(made("soft_whiten", few))
    assert {label for label in soft if label.endswith("p0.75-r0")} == {
        "soft_whiten-6-p0.75-r0",
        "soft_whiten-3-p0.75-r0",
    }
    assert len(made("whiten", few)) == len(made("shrunk_whiten", few)) == 5
    assert list(made("abtt", few)) == ["abtt-1", "abtt-2", "abtt-4"]
    spectrum = Spectrum.from_moments(moments_of(DATA[:8]))
    with pytest.raises(UserError, match="k = 7 from 8 sentences is degenerate"):
        soft_scales(spectrum, 7, power=0.5)
    for wrong in ({"power": 1.5}, {"power": 0.5, "ridge": -1.0}):
        with pytest.raises(UserError, match=r"power must be in 0\.\.1"):
            soft_scales(spectrum, 3, **wrong)


@pytest.mark.parametrize(("seed", "d"), [(0, 2), (1, 3), (2, 5), (3, 16)])
def test_shared_cosines_score_what_applying_each_map_scores(seed: int, d: int) -> None:
    data, vectors = sample(300, d, seed), sample(25, d, seed + 1)
    of = Source(d, tuple(range(d, 1, -1)), Fitted(moments_of(data)), right_singular(data), gaussian(d))
    everything = [candidate for post in get_args(PostName) for candidate in candidates(post, of)]
    assert len({id(candidate.basis) for candidate in everything}) == (5 if d > 2 else 3)
    pairs = graded(25)
    assert (pairs.left == pairs.right).any()
    maps = [mapped(candidate, vectors) for candidate in everything]
    applied = [cosine_pairs(found[pairs.left], found[pairs.right]) for found in maps]
    for candidate, cosine in zip(everything, applied, strict=True):
        np.testing.assert_allclose(shared_cosines([candidate], vectors, pairs)[:, 0], cosine, atol=1e-9)
    expected = [spearman(cosine.round(9), pairs.gold) for cosine in applied]
    np.testing.assert_allclose(correlations(everything, vectors, pairs), expected, atol=1e-9)


def test_zero_vectors_and_nan_in_shared_cosines() -> None:
    vectors = np.vstack([FRESH[:10], np.zeros((1, D))])
    pairs = graded(11)
    everything = [*candidates("raw", source()), *candidates("truncate", source())]
    found = shared_cosines(everything, vectors, pairs)
    touched = (pairs.left == 10) | (pairs.right == 10)
    assert touched.any() and (found[touched] == 0).all() and (found[~touched] != 0).all()
    vectors[pairs.left[0], 3] = np.nan
    assert np.isnan(correlations(everything, vectors, pairs)).all()


def test_a_basis_of_axes_is_the_identity() -> None:
    axes = Basis(np.full(3, 2.0))
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(axes.coordinates(x), x - 2)
    np.testing.assert_array_equal(axes.kernel(np.array([2.0, 0.0, 3.0])), [[2, 0], [0, 0], [0, 3]])
