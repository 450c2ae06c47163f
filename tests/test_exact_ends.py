"""Thresholds at the ends of their range: 1 finds equal rows and nothing else, -1 finds every pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dec2vec import cli
from dec2vec.corpus.duplicates import Group, group_duplicates, near_pairs
from dec2vec.corpus.neighbours import Method, mean_distances, nearest_others
from dec2vec.vectors.cosines import exact_cosines, same_direction

METHODS: tuple[Method, ...] = ("exact", "hnsw")


def normal(rows: int, dimension: int = 256, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)


def next_to(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same rows with their first number changed in its last bit."""
    changed = matrix.copy()
    changed[:, 0] = np.nextafter(changed[:, 0], np.float32(9))
    return changed


@pytest.mark.parametrize("method", METHODS)
def test_a_threshold_of_one_finds_equal_rows_and_nothing_else(method: Method) -> None:
    matrix = normal(200)
    twins = np.concatenate([matrix, next_to(matrix), matrix, 2 * matrix[:10]])
    groups = group_duplicates(twins, 1.0, method)
    expected = [[row, row + 400, row + 600] if row < 10 else [row, row + 400] for row in range(200)]
    assert [group.members for group in groups] == expected
    assert {cosine for group in groups for cosine in group.cosines} == {1.0}
    below = group_duplicates(twins, float(np.nextafter(1.0, 0.0)), method)
    assert [group.members[:2] for group in below] == [[row, row + 200] for row in range(200)]


def test_many_rows_that_are_all_equal() -> None:
    """More than the graph's neighbours of a row."""
    matrix = np.concatenate([np.repeat(normal(1), 300, axis=0), normal(50, seed=1)])
    for method in METHODS:
        assert [group.members for group in group_duplicates(matrix, 1.0, method)] == [list(range(300))]


@pytest.mark.parametrize("gap", [1e-6, 1e-7, 1e-9, 1e-11])
def test_thresholds_close_to_one_are_those_of_float64(gap: float) -> None:
    """Rows at distances around the threshold, which products in float32 can't tell apart."""
    generator = np.random.default_rng(1)
    first = generator.normal(size=(60, 64))
    turned = first + generator.normal(size=(60, 64)) * np.sqrt(2 * gap) * np.linspace(0.3, 1.7, 60)[:, None]
    matrix = np.concatenate([first, turned]).astype(np.float32)
    wide = matrix.astype(np.longdouble)
    unit = wide / np.sqrt((wide**2).sum(axis=1, keepdims=True))
    inside = [row for row in range(60) if ((unit[row] - unit[row + 60]) ** 2).sum() / 2 <= 1 - (1 - gap)]
    assert 10 < len(inside) < 50
    assert sorted(near_pairs(matrix, 1 - gap).tolist()) == [[row, row + 60] for row in inside]


@pytest.mark.parametrize("method", METHODS)
def test_the_other_ends(method: Method) -> None:
    """0 takes right angles, -1 takes opposite rows; zero vectors have no direction, so they are never duplicates."""
    axes = np.concatenate([np.eye(4), -np.eye(4), np.zeros((2, 4))]).astype(np.float32)
    everything = near_pairs(axes, -1.0, method)
    assert len(everything) == 8 * 7 // 2 and everything.max() == 7
    assert len(near_pairs(axes, float(np.nextafter(-1.0, 0.0)), method)) == 28 - 4
    assert len(near_pairs(axes, 0.0, method)) == 28 - 4
    assert len(near_pairs(axes, 1e-300, method)) == 0
    assert [group.members for group in group_duplicates(axes, 0.0, method)] == [list(range(8))]
    assert group_duplicates(axes[-2:], -1.0, method) == group_duplicates(axes[:0], -1.0, method) == []


def test_negative_thresholds_between() -> None:
    matrix = normal(80, 6)
    wide = matrix / np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    expected = np.argwhere(np.triu(wide @ wide.T >= -0.3, 1)).tolist()
    assert sorted(near_pairs(matrix, -0.3).tolist()) == expected


def test_groups_do_not_depend_on_the_order_of_rows() -> None:
    """Permuted rows give the same groups, and a row that is like no other changes none."""
    matrix = np.concatenate([normal(40, 8), normal(40, 8) * 1.5, normal(30, 8, seed=5)])
    order = np.random.default_rng(3).permutation(len(matrix))

    def members(groups: list[Group], names: NDArray[np.int64]) -> set[frozenset[int]]:
        return {frozenset(names[group.members].tolist()) for group in groups}

    plain = members(group_duplicates(matrix, 0.8), np.arange(len(matrix)))
    assert len(plain) > 5
    assert members(group_duplicates(matrix[order], 0.8), order) == plain
    padded = np.pad(matrix, ((0, 1), (0, 1)))
    padded[-1, -1] = 1
    assert members(group_duplicates(padded, 0.8), np.arange(len(padded))) == plain


def test_exact_cosines() -> None:
    rows = np.array([[1, 2, 2], [0, 0, 0], [3, 0, 4], [0.1, 0.7, 0.3]], dtype=np.float32)
    np.testing.assert_array_equal(exact_cosines(rows, rows), [1, 0, 1, 1])
    np.testing.assert_array_equal(exact_cosines(rows, -rows), [-1, 0, -1, -1])
    np.testing.assert_array_equal(exact_cosines(rows, 3 * rows)[[0, 2]], [1, 1])
    assert not same_direction(rows, next_to(rows)).any() and same_direction(rows, rows).sum() == 3
    one, two = normal(50, 32), normal(50, 32, seed=1)
    expected = np.einsum("nd,nd->n", one.astype(np.float64), two) / np.prod(
        [np.linalg.norm(part.astype(np.float64), axis=1) for part in (one, two)], axis=0
    )
    np.testing.assert_allclose(exact_cosines(one, two), expected, atol=1e-14)


def test_the_distance_of_equal_rows_is_none() -> None:
    matrix = np.repeat(normal(30), 3, axis=0)
    for method in METHODS:
        distances = mean_distances(matrix, nearest_others(matrix, 2, method))
        np.testing.assert_array_equal(distances, 0)


def test_the_verb_takes_the_whole_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    matrix = normal(30)
    np.save(tmp_path / "v.npy", np.concatenate([matrix, matrix, next_to(matrix)]))
    for threshold, groups, rows in (("1.0", 30, 2), ("1", 30, 2), ("0.9999999", 30, 3), ("-1", 1, 90)):
        options = ["--output", str(tmp_path / "g.jsonl"), "--threshold", threshold]
        assert cli.main(["dedup", str(tmp_path / "v.npy"), *options]) == 0
        found = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()]
        assert [len(row["members"]) for row in found] == [rows] * groups
    for wrong in ("1.0001", "-1.5", "nan"):
        assert (
            cli.main(["dedup", str(tmp_path / "v.npy"), "--output", str(tmp_path / "g.jsonl"), "--threshold", wrong])
            == 2
        )
        assert "threshold" in capsys.readouterr().err
