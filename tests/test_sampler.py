"""The order of the data: a function of seed and epoch alone, cut alike on any number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dec2vec.errors import UserError
from train.data.sampler import Mixed, OneSource, _drawn_sources, batch_indices, shard, steps_per_epoch

profile = settings(max_examples=80, deadline=None, derandomize=True)


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(2, 200))
    return n, draw(st.integers(2, n))


def epoch_batches(n: int, batch: int, seed: int, epoch: int) -> list[np.ndarray]:
    steps = steps_per_epoch(n, batch)
    return [batch_indices(n, batch, seed, step) for step in range(epoch * steps, (epoch + 1) * steps)]


@profile
@given(sizes(), st.integers(0, 2**40), st.integers(0, 50))
def test_each_row_once_an_epoch(size: tuple[int, int], seed: int, epoch: int) -> None:
    n, batch = size
    batches = epoch_batches(n, batch, seed, epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert all(len(found) == batch for found in batches[:-1])
    assert 2 <= len(batches[-1]) <= batch + 1


@profile
@given(sizes(), st.integers(0, 9), st.integers(0, 30), st.integers(1, 9))
def test_shards_in_order_are_the_global_batch(size: tuple[int, int], seed: int, step: int, world: int) -> None:
    indices = batch_indices(*size, seed, step)
    shards = [shard(indices, rank, world) for rank in range(world)]
    assert np.concatenate(shards).tolist() == indices.tolist()
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@profile
@given(st.integers(4, 200), st.integers(0, 9), st.integers(0, 9), st.integers(2, 4), st.integers(2, 4))
def test_order_does_not_depend_on_the_batch(n: int, seed: int, epoch: int, one: int, other: int) -> None:
    orders = [np.concatenate(epoch_batches(n, batch, seed, epoch)).tolist() for batch in (one, other)]
    assert orders[0] == orders[1]


def test_order_changes_with_seed_and_epoch_and_not_with_the_calls_before() -> None:
    first, second = (epoch_batches(100, 100, 0, epoch)[0].tolist() for epoch in (0, 1))
    other_seed = batch_indices(100, 100, 1, 0).tolist()
    assert first != second and first != other_seed and second != other_seed
    assert batch_indices(100, 100, 0, 0).tolist() == first


def test_the_order_is_pinned() -> None:
    """A checkpoint stores no order: changing it would break every resumed run."""
    assert batch_indices(10, 5, 0, 0).tolist() == [4, 6, 2, 7, 3]


def test_a_batch_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="read-only"):
        batch_indices(10, 5, 0, 0)[0] = 3


def test_a_rest_of_one_row_joins_the_batch_before() -> None:
    assert [len(found) for found in epoch_batches(9, 4, 0, 0)] == [4, 5]
    assert [len(found) for found in epoch_batches(10, 4, 0, 0)] == [4, 4, 2]


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch\.size 8 is larger than the data \(3 pairs\); use batch\.size 3"):
        steps_per_epoch(3, 8)
    with pytest.raises(ValueError, match="no negatives"):
        steps_per_epoch(3, 1)


def one_source(sizes: tuple[int, ...], weights: tuple[float, ...], batch: int, seed: int) -> OneSource:
    """Pairs in every source, none of which fills more than a batch of all its rows."""
    return OneSource(tuple(Mixed(size, min(batch, size), seed) for size in sizes), sizes, weights, seed)


mixtures = st.integers(1, 5).flatmap(
    lambda count: st.tuples(
        st.tuples(*[st.integers(2, 60)] * count),
        st.tuples(*[st.floats(0.1, 10.0)] * count),
        st.integers(2, 40),
        st.integers(0, 9),
    )
)


@profile
@given(mixtures)
def test_a_batch_of_one_source_has_rows_of_one_source(mixture: Any) -> None:
    sampler, batch = one_source(*mixture), mixture[2]
    source_of = np.repeat(np.arange(len(sampler.sizes)), sampler.sizes)
    for step in range(20):
        rows = sampler.rows(step)
        (source,) = set(source_of[rows].tolist())
        assert 2 <= len(rows) <= batch + 1
        assert len(set(rows.tolist())) == len(rows)
        assert len(rows) <= sampler.sizes[source]


@profile
@given(mixtures)
def test_within_a_source_each_row_comes_once_before_any_comes_again(mixture: Any) -> None:
    sampler, start = one_source(*mixture), 0
    seen: list[list[int]] = [[] for _ in sampler.sizes]
    for step in range(60):
        rows = sampler.rows(step).tolist()
        seen[int(np.searchsorted(np.cumsum(sampler.sizes), rows[0], side="right"))].extend(rows)
    for size, rows in zip(sampler.sizes, seen, strict=True):
        for epoch in range(len(rows) // size):
            assert sorted(rows[epoch * size : (epoch + 1) * size]) == list(range(start, start + size))
        start += size


def test_sources_come_as_often_as_their_weights_say() -> None:
    """To within four standard deviations of 4,000 draws; equal weights would give a quarter each."""
    sampler = one_source((5, 50, 500, 7), (1.0, 2.0, 3.0, 4.0), 4, 0)
    source_of = np.repeat(np.arange(4), sampler.sizes)
    counts = np.bincount([source_of[sampler.rows(step)[0]] for step in range(4000)], minlength=4)
    expected = np.array([0.1, 0.2, 0.3, 0.4])
    assert np.all(np.abs(counts / 4000 - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000))


def test_order_of_sources_does_not_depend_on_how_far_it_was_asked_for() -> None:
    """The draws are made in blocks; a resumed run begins in a later one."""
    sampler = one_source((30, 40), (1.0, 1.0), 8, 3)
    late = sampler.rows(5000).tolist()
    first = [sampler.rows(step).tolist() for step in range(1100)]
    _drawn_sources.cache_clear()
    assert [sampler.rows(step).tolist() for step in range(1100)] == first
    assert sampler.rows(5000).tolist() == late


def test_the_order_of_sources_is_pinned() -> None:
    sampler = one_source((4, 6), (1.0, 1.0), 2, 0)
    assert [sampler.rows(step).tolist() for step in range(4)] == [[2, 0], [1, 3], [7, 6], [3, 0]]
