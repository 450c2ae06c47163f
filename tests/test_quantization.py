"""One byte and one bit a dimension, against FAISS and scipy."""

from __future__ import annotations

import faiss
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import distance

from dec2vec.vectors.quantization import Ranges, hamming, to_bits


@given(st.integers(1, 33), st.integers(2, 50), st.integers(0, 2**32 - 1))
def test_bytes_are_those_of_faiss(width: int, rows: int, seed: int) -> None:
    """Up to a step where a value lies on an edge; values beyond the ranges included."""
    random = np.random.default_rng(seed)
    trained, vectors = (random.standard_normal((rows, width)).astype(np.float32) for _ in range(2))
    quantizer = faiss.ScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit)
    quantizer.train(trained)
    ranges = Ranges.from_vectors(trained)
    ours = ranges.encode(vectors).astype(np.int64) + 128
    theirs = quantizer.compute_codes(vectors).astype(np.int64)
    assert np.abs(ours - theirs).max() <= 1
    step = (ranges.high - ranges.low) / 255
    assert (np.abs(ranges.rounded(vectors) - quantizer.decode(quantizer.compute_codes(vectors))) <= 1.01 * step).all()
    assert (np.abs(ranges.rounded(trained) - trained) <= 0.51 * step + 1e-6).all()


def test_dimensions_that_do_not_vary_and_no_numbers() -> None:
    vectors = np.array([[1.0, 2.0, np.inf], [1.0, 4.0, 0.0]], dtype=np.float32)
    found = Ranges.from_vectors(vectors[:, :2]).rounded(vectors[:, :2])
    assert (found[:, 0] == 1.0).all() and found[0, 1] < 2.01 and found[1, 1] > 3.99
    broken = Ranges.from_vectors(vectors).rounded(vectors)
    assert np.isnan(broken[0, 2]) and np.isfinite(broken[:, :2]).all()


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_signs_against_scipy(width: int, seed: int) -> None:
    left, right = np.random.default_rng(seed).standard_normal((2, 5, width))
    expected = [width * distance.hamming(one > 0, other > 0) for one, other in zip(left, right, strict=True)]
    np.testing.assert_allclose(hamming(to_bits(left), to_bits(right)), expected)
    assert to_bits(left).shape == (5, -(-width // 8))
