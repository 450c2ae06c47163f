"""Chunks: every text once, within the budget, little padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dec2vec.batching import CPU_COST, ChunkCost, chunk_cost, deduplicate, make_chunks, plan

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


def naive_cost(lengths: list[int], budget: int, cost: ChunkCost) -> int:
    """The least cost over every way to cut the sorted lengths where the length changes."""
    if not lengths:
        return 0
    width = lengths[-1]
    rows_a_group = max(1, budget // width)
    return min(
        naive_cost(lengths[:start], budget, cost)
        + sum(
            cost.of(len(piece) * width)
            for piece in np.array_split(lengths[start:], -(-(len(lengths) - start) // rows_a_group))
        )
        for start in range(len(lengths))
        if start == 0 or lengths[start] != lengths[start - 1]
    )


def cost_of(groups: list[list[int]], lengths: list[int], cost: ChunkCost) -> int:
    return sum(cost.of(len(group) * max(lengths[row] for row in group)) for group in groups)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 20), st.integers(0, 30))
def test_no_split_by_length_costs_less(lengths: list[int], budget: int, fixed: int, least: int) -> None:
    cost = ChunkCost(fixed, least)
    assert cost_of(plan(lengths, budget, cost), lengths, cost) <= naive_cost(sorted(lengths), budget, cost)


def test_dear_chunks_are_few() -> None:
    lengths = np.random.default_rng(0).lognormal(2.5, 0.7, 500).astype(int) + 1
    assert len(plan(lengths.tolist(), 10**6, ChunkCost(10**6))) == 1 < len(plan(lengths.tolist(), 10**6, CPU_COST))


def test_large_chunks_of_an_accelerator_cost_nothing_but_their_tokens() -> None:
    """1,024 short pairs, as the bench has them; counting 4,096 tokens on top of each chunk made padding 29 %."""
    generator = np.random.default_rng(2)
    drawn = [generator.lognormal(np.log(mean) - sigma**2 / 2, sigma, 1024) for mean, sigma in ((18, 0.45), (12, 0.35))]
    lengths = np.concatenate(drawn).round().clip(4, 512).astype(int).tolist()
    cost = chunk_cost(torch.device("cuda"))
    former, now = (plan(lengths, 16_384, used) for used in (ChunkCost(fixed=4096), cost))
    padding = [cost_of(groups, lengths, ChunkCost()) / sum(lengths) for groups in (former, now)]
    assert padding == pytest.approx([1.294, 1.150], abs=2e-3) and [len(former), len(now)] == [4, 7]
    assert cost_of(now, lengths, cost) < 0.91 * cost_of(former, lengths, cost)
    assert chunk_cost(torch.device("cpu")) == ChunkCost(fixed=64)
