"""The order of the data: a function of seed and epoch alone, cut alike on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dec2vec.errors import UserError
from train.sampler import batch_indices, shard, steps_per_epoch

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
    with pytest.raises(UserError, match=r"batch\.size 8 is larger than the data \(3 pairs\); use --batch\.size 3"):
        steps_per_epoch(3, 8)
    with pytest.raises(ValueError, match="no negatives"):
        steps_per_epoch(3, 1)
