"""Batches made ahead are the batches asked for, in any order of asking; an error comes with its own batch."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from tests.training_setup import tiny_encoder, tiny_table
from train.data.batch import BatchOptions, LocalBatch, prepare
from train.data.prefetch import Prefetch


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[LocalBatch]:
    encoder = tiny_encoder(tmp_path_factory.mktemp("model"))
    return [prepare(tiny_table(24), np.arange(step, step + 4), encoder, BatchOptions(60)) for step in range(5)]


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("asked", [[0, 1, 2, 3, 4], [2, 3, 4], [0, 3, 1, 1]])
def test_every_batch_is_its_own(batches: list[LocalBatch], asked: list[int], ahead: bool) -> None:
    made: list[tuple[int, bool]] = []

    def make(step: int) -> LocalBatch:
        made.append((step, threading.current_thread() is threading.main_thread()))
        return batches[step]

    with Prefetch(make, 5, ahead=ahead) as prefetch:
        assert all(prefetch.batch(step) is batches[step] for step in asked)
        prefetch.settle()
    assert all(step < 5 for step, _ in made)
    assert any(not main for _, main in made) == ahead
    if ahead and asked == [0, 1, 2, 3, 4]:
        assert sorted(made) == [(0, True), *((step, False) for step in range(1, 5))]


def test_an_error_comes_with_its_batch(batches: list[LocalBatch]) -> None:
    def make(step: int) -> LocalBatch:
        if step == 1:
            raise ValueError("row 7")
        return batches[step]

    with Prefetch(make, 5) as prefetch:
        prefetch.batch(0)
        prefetch.settle()
        with pytest.raises(ValueError, match="row 7"):
            prefetch.batch(1)


def test_tokenizing_in_the_thread_changes_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    encoder = tiny_encoder(tmp_path_factory.mktemp("model"))
    state = torch.get_rng_state()

    def make(step: int) -> LocalBatch:
        return prepare(tiny_table(24), np.arange(step, step + 4), encoder, BatchOptions(60))

    with Prefetch(make, 3) as prefetch:
        found = [prefetch.batch(step) for step in range(3)]
    for step, batch in enumerate(found):
        for chunk, expected in zip(batch.chunks, make(step).chunks, strict=True):
            assert chunk.input_ids.equal(expected.input_ids) and chunk.rows.equal(expected.rows)
    assert torch.get_rng_state().equal(state)
