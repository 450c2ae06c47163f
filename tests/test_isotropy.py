"""Known values, the published formulas step by step, and loops over all pairs."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from dec2vec.errors import UserError
from eval.metrics import isotropy
from eval.tasks.isotropy import METRICS, load_isotropy
from eval.tasks.task import Task, TaskVectors


def gaussian(rows: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    """Anisotropic and off the origin, as language models' vectors are."""
    generator = np.random.default_rng(seed)
    return (generator.normal(size=(rows, dimension)) * np.arange(1, dimension + 1) + 3).astype(np.float32)


def corners(dimension: int) -> NDArray[np.float32]:
    """Plus and minus each axis: perfectly isotropic."""
    return np.concatenate([np.eye(dimension), -np.eye(dimension)]).astype(np.float32)


def line(dimension: int) -> NDArray[np.float32]:
    rows = np.zeros((10, dimension), dtype=np.float32)
    rows[:, 1] = np.arange(10)
    return rows


@given(dimension=st.integers(2, 12))
def test_known_values(dimension: int) -> None:
    even, single = isotropy.spectrum(corners(dimension)).variances, isotropy.spectrum(line(dimension)).variances
    assert isotropy.isoscore(even) == pytest.approx(1)
    assert isotropy.isoscore(single) == pytest.approx(0, abs=1e-9)
    assert isotropy.effective_rank(even) == pytest.approx(dimension)
    assert isotropy.effective_rank(single) == pytest.approx(1, abs=1e-3)
    assert isotropy.first_share(even) == pytest.approx(1 / dimension)
    assert isotropy.first_share(single) == pytest.approx(1)


@given(used=st.integers(1, 8))
def test_isoscore_is_the_share_of_directions_used(used: int) -> None:
    """Rudman et al. 2022, section 4: k of n equal variances score (k - 1) / (n - 1)."""
    variances = np.array([1.0] * used + [0.0] * (8 - used))
    assert isotropy.isoscore(variances) == pytest.approx((used - 1) / 7, abs=1e-9)


def test_isoscore_step_by_step() -> None:
    points = gaussian(200, 6)
    reoriented = PCA(n_components=6).fit_transform(points.astype(np.float64))
    diagonal = np.diag(np.cov(reoriented.T))
    n = 6
    scaled = diagonal * np.sqrt(n) / np.linalg.norm(diagonal)
    defect = np.linalg.norm(scaled - np.ones(n)) / np.sqrt(2 * (n - np.sqrt(n)))
    phi = (n - defect**2 * (n - np.sqrt(n))) ** 2 / n**2
    assert isotropy.isoscore(isotropy.spectrum(points).variances) == pytest.approx((n * phi - 1) / (n - 1))


def test_effective_rank_and_first_share_by_svd() -> None:
    points = gaussian(50, 5).astype(np.float64)
    singular = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    shares = singular / singular.sum()
    variances = isotropy.spectrum(points).variances
    assert isotropy.effective_rank(variances) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert isotropy.first_share(variances) == pytest.approx(PCA().fit(points).explained_variance_ratio_[0])


def test_pairs_by_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isotropy, "BLOCK", 7)
    points = gaussian(30, 4)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    cosines = [unit[i] @ unit[j] for i, j in combinations(range(30), 2)]
    assert isotropy.mean_cosine(points) == pytest.approx(np.mean(cosines), rel=1e-5)
    assert isotropy.uniformity(points) == pytest.approx(np.log(np.exp(-2 * pdist(unit) ** 2).mean()), rel=1e-5)
    distances = np.linalg.norm(unit[:15] - unit[15:], axis=1) ** 2
    assert isotropy.alignment(points[:15], points[15:]) == pytest.approx(distances.mean(), rel=1e-5)
    assert isotropy.alignment(points, 2 * points) == pytest.approx(0)
    assert isotropy.alignment(points, -points) == pytest.approx(4)


def test_resamples_of_pairs_leave_out_a_rows_own_copies() -> None:
    points, counts = gaussian(12, 3), np.array([[2.0, 0, 1, 1, 0, 3, 1, 1, 1, 0, 1, 1]])
    rows = np.repeat(np.arange(12), counts[0].astype(int))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    pairs = [(i, j) for i, j in combinations(rows, 2) if i != j]
    expected = np.mean([unit[i] @ unit[j] for i, j in pairs])
    assert isotropy.mean_cosines(points, counts)[0] == pytest.approx(expected, rel=1e-5)
    kernel = np.mean([np.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i, j in pairs])
    assert isotropy.uniformities(points, counts)[0] == pytest.approx(np.log(kernel), rel=1e-5)


def test_more_dimensions_than_rows_change_nothing() -> None:
    """The matrix of inner products instead of the covariance; a row of zeros (no known word) stays one."""
    few = np.concatenate([gaussian(9, 5), np.zeros((1, 5), dtype=np.float32)])
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(40, 40)))
    wide = few @ turn[:5]
    narrow, found = isotropy.spectrum(few), isotropy.spectrum(wide)
    np.testing.assert_allclose(found.variances[:5], narrow.variances, rtol=1e-5)
    np.testing.assert_allclose(found.squares[:, :5], narrow.squares, atol=1e-6)
    assert found.dimension == 40 and found.squares.shape == (10, 10)
    padded = np.concatenate([narrow.variances, np.zeros(35)])
    assert isotropy.isoscore(found.variances, 40) == pytest.approx(isotropy.isoscore(padded), rel=1e-6)
    assert isotropy.isoscore(found.variances) != pytest.approx(isotropy.isoscore(padded), rel=1e-2)
    rows = isotropy.compact(wide)
    assert rows.shape == (10, 10) and not rows[9].any()
    np.testing.assert_allclose(rows @ rows.T, wide @ wide.T, atol=1e-5)
    assert isotropy.mean_cosine(rows) == pytest.approx(isotropy.mean_cosine(wide), rel=1e-6)


def test_no_variance_is_no_number() -> None:
    same = isotropy.spectrum(np.ones((5, 3), dtype=np.float32)).variances
    for measure in (isotropy.isoscore, isotropy.effective_rank, isotropy.first_share):
        assert np.isnan(measure(same))
    assert isotropy.mean_cosine(np.ones((5, 3))) == pytest.approx(1)


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_task_of_pairs_and_its_intervals(tmp_path: Path) -> None:
    scores: list[float | None] = [5, 0, 4.5, 3, None]
    rows: list[dict[str, object]] = [
        {"sentence1": f"a{i}", "sentence2": f"b{i}", "score": scores[i % 5]} for i in range(40)
    ]
    task = load_isotropy(write(tmp_path / "toy.jsonl", rows))
    assert isinstance(task, Task)
    assert (task.name, len(task.test.queries), len(task.left), task.dev) == ("toy", 80, 16, None)
    assert [task.texts[i] for i in task.left[:2]] == ["a0", "a2"]
    points = gaussian(80, 5)
    figures = task.measure(None, TaskVectors.from_queries(points), 200, 0)
    assert [figure.metric for figure in figures] == [*METRICS, "alignment"]
    assert [figure.n for figure in figures] == [80] * 5 + [16]
    for figure in figures:
        low, high = np.percentile(figure.resampled, (2.5, 97.5))
        assert low < figure.value < high
    assert figures[5].value == pytest.approx(isotropy.alignment(points[task.left], points[task.right]))
    points[0] = np.nan
    assert np.isnan([figure.value for figure in task.measure(None, TaskVectors.from_queries(points), 100, 0)]).all()


def test_large_files_are_sampled_alike_for_every_system() -> None:
    from dataclasses import replace

    points = gaussian(60, 3)
    base = load_isotropy_of(60)
    task = replace(base, limit=20)
    one = task.measure(None, TaskVectors.from_queries(points), 100, 0)
    other = task.measure(None, TaskVectors(2 * points, points[:0]), 100, 0)
    assert one[0].n == 20
    np.testing.assert_allclose([figure.value for figure in one], [figure.value for figure in other])


def load_isotropy_of(count: int):  # type: ignore[no-untyped-def]
    from eval.tasks.isotropy import _task

    return _task("toy", [f"t{i}" for i in range(count)], [])


def test_labels_are_numbers_and_no_pair_is_refused(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"sentence1": f"a{i}", "sentence2": f"b{i}", "label": label} for i, label in enumerate([1.0, 0, True, "1", "0"])
    ]
    assert len(load_isotropy(write(tmp_path / "t.jsonl", rows)).left) == 3
    small: list[dict[str, object]] = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "score": i / 4} for i in range(5)]
    with pytest.raises(UserError, match="no pair has a score above 4; set close"):
        load_isotropy(write(tmp_path / "t.jsonl", small))
    assert len(load_isotropy(write(tmp_path / "t.jsonl", small), close=0.6).left) == 2


def test_kinds_of_files(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    pairs: list[dict[str, object]] = [{"anchor": "a", "positive": "b"}, {"anchor": "c", "positive": "a"}]
    assert len(load_isotropy(write(path, pairs)).left) == 2
    labels: list[dict[str, object]] = [
        {"sentence1": "a", "sentence2": "b", "label": 1},
        {"sentence1": "c", "sentence2": "a", "label": 0},
    ]
    assert len(load_isotropy(write(path, labels)).left) == 1
    (tmp_path / "t.txt").write_text("a\nb\nc\n")
    assert load_isotropy(tmp_path / "t.txt").texts == ["a", "b", "c"]
    with pytest.raises(UserError, match=r"t.jsonl needs the column text, anchor and positive, or .* it has question"):
        load_isotropy(write(path, [{"question": "a"}]))
    with pytest.raises(UserError, match="t has 2 different texts; isotropy needs at least three"):
        load_isotropy(write(path, [{"text": "a"}, {"text": "b"}]))
    with pytest.raises(UserError, match="toy: isotropy cannot be used for the selection"):
        load_isotropy_of(5).dev_score(TaskVectors(gaussian(5, 2), gaussian(5, 2)[:0]))
