"""Chunks side by side give the loss and gradients of chunks one after another, the same bits every time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dec2vec.encoder import Encoder
from tests.test_fast_blocks import encoder_of
from tests.test_gradcache import LOSS, ROWS, close
from tests.test_prefix_gradient import PROMPT
from tests.training_setup import gradients, tiny_table
from train.data.batch import BatchOptions, prepare
from train.distributed.single import Single
from train.gradcache.cached_step import cached_step
from train.gradcache.threads import fitting_threads, in_order
from train.losses.infonce.infonce import infonce
from train.losses.objective import Temperature


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def step(encoder: Encoder, *, parallel: bool, graph_tokens: int) -> tuple[float, dict[str, Tensor]]:
    torch.set_num_threads(1 + parallel)
    batch = prepare(tiny_table(24), ROWS, encoder, BatchOptions(40, share_prefix=True))
    model = Single(encoder.embedder)
    assert not parallel or fitting_threads(model, len(batch.chunks)) == 2
    objective = partial(infonce, rows=batch.loss_inputs, config=LOSS, temperature=Temperature(0.05, learned=False))
    result = cached_step(
        model,
        batch.chunks,
        objective,
        graph_tokens=graph_tokens,
        prefix=batch.prefix,
        threads=None if parallel else 1,
    )
    return float(result.loss), gradients(encoder.embedder)


@pytest.mark.parametrize("model", [{}, {"prompt": PROMPT, "max_length": 100}])
def test_equals_one_after_another(tmp_path: Path, model: dict[str, object]) -> None:
    encoder = encoder_of(tmp_path, fast=True, lora={}, **model)
    loss, expected = step(encoder, parallel=False, graph_tokens=10_000)
    for graph_tokens in (0, 10_000):
        runs = [step(encoder, parallel=True, graph_tokens=graph_tokens) for _ in range(2)]
        for found_loss, found in runs:
            assert found_loss == pytest.approx(loss, rel=1e-5) and close(found, expected)
            assert all(found[name].equal(runs[0][1][name]) for name in found)
    assert torch.get_num_threads() == 2


def threads(folder: Path, chunks: int, **options: Any) -> int:
    return fitting_threads(Single(encoder_of(folder, **options).embedder), chunks)


def test_where_it_would_differ(tmp_path: Path) -> None:
    """Dropout draws from one generator; inner layers are read by hooks; other blocks are switched as modules."""
    assert threads(tmp_path, 4, fast=True, lora={}) == 2
    assert threads(tmp_path, 3, fast=True, lora={}) == 1
    assert threads(tmp_path, 4, fast=True, lora={"dropout": 0.1}) == 1
    assert threads(tmp_path, 4, fast=False, lora={}) == 1
    assert threads(tmp_path, 4, fast=True, lora={}, layer=2) == 1


def test_order_and_errors() -> None:
    assert list(in_order(lambda item: item * 2, range(20), 2)) == list(range(0, 40, 2))
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 / item, [1, 0, 2], 2))
    assert torch.get_num_threads() == 2
