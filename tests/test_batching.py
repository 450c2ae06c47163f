"""Chunks: every text once, within the budget, little padding."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dec2vec.batching import deduplicate, make_chunks, plan

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 300))
def test_plan_covers_each_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = plan(lengths, budget)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= budget


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=40), st.integers(1, 40))
def test_chunks_hold_the_ids(sequences: list[list[int]], budget: int) -> None:
    unique, inverse = deduplicate(sequences)
    assert len({tuple(ids) for ids in unique}) == len(unique)
    assert [unique[place] for place in inverse] == sequences
    found: dict[int, list[int]] = {}
    for chunk in make_chunks(unique, budget):
        for row, ids, length in zip(chunk.rows.tolist(), chunk.input_ids.tolist(), chunk.lengths.tolist(), strict=True):
            found[row] = ids[:length]
            assert set(ids[length:]) <= {0}
    assert [found[row] for row in range(len(unique))] == unique


def test_sorting_saves_padding() -> None:
    lengths = np.random.default_rng(0).lognormal(2.5, 0.7, 2000).astype(int) + 1
    groups = plan(lengths.tolist(), 1024)
    padded = sum(len(group) * max(lengths[row] for row in group) for group in groups)
    assert padded < 1.2 * lengths.sum()


def naive_cost(lengths: list[int], budget: int, overhead: int) -> int:
    """The least cost over every way to cut the sorted lengths where the length changes."""
    if not lengths:
        return 0
    width = lengths[-1]
    rows_a_group = max(1, budget // width)
    return min(
        naive_cost(lengths[:start], budget, overhead)
        + width * (len(lengths) - start)
        + overhead * -(-(len(lengths) - start) // rows_a_group)
        for start in range(len(lengths))
        if start == 0 or lengths[start] != lengths[start - 1]
    )


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 20))
def test_no_split_by_length_costs_less(lengths: list[int], budget: int, overhead: int) -> None:
    groups = plan(lengths, budget, overhead)
    cost = sum(len(group) * max(lengths[row] for row in group) + overhead for group in groups)
    assert cost <= naive_cost(sorted(lengths), budget, overhead)


def test_dear_chunks_are_few() -> None:
    lengths = np.random.default_rng(0).lognormal(2.5, 0.7, 500).astype(int) + 1
    assert len(plan(lengths.tolist(), 10**6, 10**6)) == 1 < len(plan(lengths.tolist(), 10**6, 64))
