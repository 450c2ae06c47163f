"""Whitening against numpy, scikit-learn and the published formula, and its degenerate cases."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import OAS
from sklearn.decomposition import PCA

from dec2vec.errors import UserError
from dec2vec.vectors.whitening import Moments, Whitening, fit_whitening


def sample(n: int, d: int, seed: int = 0, offset: float = 5.0) -> np.ndarray:
    """Power-law variances around a large common mean, as in decoder states."""
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.standard_normal((d, d)))[0]
    return generator.standard_normal((n, d)) * np.arange(1, d + 1) ** -0.7 @ basis + offset


def moments_of(x: np.ndarray, chunk: int = 37) -> Moments:
    moments = Moments(x.shape[1])
    for start in range(0, len(x), chunk):
        moments.update(x[start : start + chunk])
    return moments


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def cosines(x: np.ndarray) -> np.ndarray:
    return np.asarray(unit(x) @ unit(x).T)


def whitened(whitening: Whitening, x: np.ndarray) -> np.ndarray:
    return np.asarray((x - whitening.mean) @ whitening.kernel)


def test_streaming_equals_numpy_with_a_huge_mean() -> None:
    x = sample(500, 16, offset=1e4)
    moments = moments_of(x)
    scale = np.abs(np.cov(x.T)).max()
    assert np.abs(moments.covariance - np.cov(x.T)).max() < 1e-9 * scale
    x = sample(500, 16)
    moments = moments_of(x)
    assert np.abs(moments.covariance - np.cov(x.T)).max() < 1e-12
    assert np.abs(moments.mean - x.mean(axis=0)).max() < 1e-12
    assert moments.n == 500


def test_shards_merge_to_the_whole() -> None:
    x = sample(301, 8)
    whole, left, right = moments_of(x), moments_of(x[:100]), moments_of(x[100:], chunk=13)
    left.merge(Moments(8))
    left.merge(right)
    assert left.n == whole.n
    np.testing.assert_allclose(left.mean, whole.mean, atol=1e-13)
    np.testing.assert_allclose(left.scatter, whole.scatter, atol=1e-10)


def test_published_kernel_and_bias() -> None:
    x = sample(4000, 32)
    mean = x.mean(axis=0, keepdims=True)
    u, s, _ = np.linalg.svd(np.cov((x - mean).T))
    kernel, bias = (u @ np.diag(1 / np.sqrt(s)))[:, :12], -mean
    ours = fit_whitening(moments_of(x), k=12)
    assert ours.provenance["rho"] == 0.0
    assert np.abs(cosines((x[:300] + bias) @ kernel) - cosines(whitened(ours, x[:300]))).max() < 1e-10


def test_identity_covariance_on_the_fitted_data() -> None:
    x = sample(2000, 24)
    y = whitened(fit_whitening(moments_of(x)), x)
    np.testing.assert_allclose(np.cov(y.T), np.eye(24), atol=1e-9)


@pytest.mark.parametrize("n", [20, 64, 400])
def test_oas_as_scikit_learn(n: int) -> None:
    x = sample(n, 64)
    reference = OAS().fit(x)
    ours = fit_whitening(moments_of(x))
    assert ours.provenance["rho"] == pytest.approx(reference.shrinkage_, rel=1e-9)
    precision = np.linalg.inv(reference.covariance_)
    ratio = (ours.kernel @ ours.kernel.T) / precision
    np.testing.assert_allclose(ratio, (n - 1) / n, rtol=1e-6)


def test_auto_shrinks_only_when_n_is_small() -> None:
    assert fit_whitening(moments_of(sample(79, 8))).provenance["rho"] != 0.0
    assert fit_whitening(moments_of(sample(80, 8))).provenance["rho"] == 0.0


def test_pca_without_scaling_is_not_whitening() -> None:
    x = sample(3000, 32)
    pca = PCA(n_components=32, whiten=False).fit(x)
    centred = cosines(x[:200] - x.mean(axis=0))
    assert np.abs(cosines(pca.transform(x[:200])) - centred).max() < 1e-10
    ours = cosines(whitened(fit_whitening(moments_of(x)), x[:200]))
    assert np.abs(ours - centred).mean() > 0.05
    scaled = PCA(n_components=32, whiten=True).fit(x)
    assert np.abs(ours - cosines(scaled.transform(x[:200]))).max() < 1e-9


def test_truncating_is_fitting_with_that_k() -> None:
    moments = moments_of(sample(1000, 16))
    short = fit_whitening(moments, k=5)
    cut = fit_whitening(moments).truncated(5)
    np.testing.assert_array_equal(short.kernel, cut.kernel)
    assert cut.provenance["k"] == 5
    assert cut.provenance["condition_number"] == pytest.approx(short.provenance["condition_number"], rel=1e-9)
    with pytest.raises(UserError, match=r"1\.\.5, got 6"):
        cut.truncated(6)


def test_skip_top_drops_the_first_directions() -> None:
    moments = moments_of(sample(1000, 16))
    np.testing.assert_array_equal(
        fit_whitening(moments, k=4, skip_top=2).kernel, fit_whitening(moments, k=6).kernel[:, 2:]
    )


def test_k_of_n_minus_one_is_refused_because_every_cosine_would_be_equal() -> None:
    x = sample(20, 64)
    moments = moments_of(x)
    with pytest.raises(UserError, match="k = 19 from 20 sentences is degenerate"):
        fit_whitening(moments, k=19, shrinkage=0.0)
    with pytest.raises(UserError, match="degenerate"):
        fit_whitening(moments, shrinkage=0.0)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    naive = cosines((x - x.mean(axis=0)) @ (vectors[:, -19:] / np.sqrt(values[-19:])))
    assert np.abs(naive[~np.eye(20, dtype=bool)] + 1 / 19).max() < 1e-9
    assert fit_whitening(moments, k=10, shrinkage=0.0).dimension == 10
    assert fit_whitening(moments, k=64).dimension == 64


def test_constant_dimensions_are_cut_without_shrinkage() -> None:
    x = sample(500, 8)
    x[:, 3] = 2.0
    whitening = fit_whitening(moments_of(x))
    assert whitening.dimension == whitening.provenance["rank"] == 7
    assert np.isfinite(whitening.kernel).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_constant_data_is_refused(value: float) -> None:
    x = np.full((200, 4), value, dtype=np.float32)
    with pytest.raises(UserError, match="all 200 vectors are equal"):
        fit_whitening(moments_of(x))


def test_one_sentence_or_none_is_refused() -> None:
    for n in (0, 1):
        with pytest.raises(UserError, match=f"at least two sentences, got {n}"):
            fit_whitening(moments_of(sample(n, 4)))


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_non_finite_rows_are_refused(value: float) -> None:
    x = sample(10, 4)
    x[3, 1] = value
    with pytest.raises(UserError, match="1 of 10 vectors contain inf or nan"):
        Moments(4).update(x)


def test_bad_arguments() -> None:
    moments = moments_of(sample(100, 4))
    for k, skip_top in ((0, 0), (5, 0), (3, 2), (None, 4)):
        with pytest.raises(UserError, match="does not fit 4 dimensions"):
            fit_whitening(moments, k=k, skip_top=skip_top)
    with pytest.raises(UserError, match=r"auto, oas or a number in 0\.\.1, got 1\.5"):
        fit_whitening(moments, shrinkage=1.5)
    with pytest.raises(UserError, match="do not fit a whitening"):
        fit_whitening(moments).apply(np.zeros((2, 5), dtype=np.float32))
    with pytest.raises(UserError, match="do not fit moments of dimension 4"):
        moments.update(np.zeros((2, 5)))
    with pytest.raises(UserError, match="do not merge"):
        moments.merge(Moments(5))


def test_save_and_load(tmp_path: Path) -> None:
    x = sample(500, 8).astype(np.float32)
    whitening = fit_whitening(moments_of(x), k=3, provenance={"prompt": "bare", "layer": -1, "corpus": "ab12"})
    path = tmp_path / "whitening.safetensors"
    whitening.save(path)
    again = Whitening.load(path)
    np.testing.assert_array_equal(again.mean, whitening.mean)
    np.testing.assert_array_equal(again.kernel, whitening.kernel)
    assert again.provenance == whitening.provenance
    assert {
        "n": 500,
        "d": 8,
        "k": 3,
        "rho": 0.0,
        "prompt": "bare",
        "layer": -1,
    }.items() <= again.provenance.items()
    assert again.apply(x).dtype == np.float32
    np.testing.assert_allclose(again.apply(x), whitened(whitening, x), rtol=1e-5, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["whitening.safetensors"]


def test_files_that_are_no_whitening(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(UserError, match="whitening file"):
        Whitening.load(path)
    path.write_bytes(pickle.dumps({"mean": [0.0]}))
    with pytest.raises(UserError, match="is a pickle") as caught:
        Whitening.load(path)
    assert "\n" not in str(caught.value)
    fit_whitening(moments_of(sample(100, 4))).save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="not a complete safetensors"):
        Whitening.load(path)


@given(st.integers(0, 10_000), st.integers(2, 6))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_cosines_do_not_depend_on_the_basis(seed: int, d: int) -> None:
    x = sample(80, d, seed=seed)
    rotation = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((d, d)))[0]
    plain = fit_whitening(moments_of(x), k=d - 1)
    turned = fit_whitening(moments_of(x @ rotation), k=d - 1)
    gap = np.abs(cosines(whitened(plain, x)) - cosines(whitened(turned, x @ rotation))).max()
    assert gap < 1e-6
