"""The order of streamed rows: every row once an epoch, a function of the step, and in a single window as in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dec2vec.errors import UserError
from tests.training_setup import data_of
from train.config import BatchConfig, TrainConfig
from train.data import windows
from train.data.dataset import TrainingData
from train.data.make_sampler import make_sampler
from train.data.sampler import Indices, Mixed, OneSource, Sampler
from train.data.table import SourceTable
from train.data.windows import Windows
from train.loop.batches import tell_of_windows
from train.options.data import SourceConfig
from train.options.losses import LossConfig
from train.state import TrainState


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Windows of 24 rows in blocks of 4."""
    monkeypatch.setattr(windows, "WINDOW", 24)
    monkeypatch.setattr(windows, "BLOCK", 4)
    yield
    windows._window.cache_clear()


def mixed(n: int, batch: int, seed: int) -> Windows:
    return Windows(n, batch, seed, lambda rows, own: Mixed(len(rows), batch, own))


def epoch_of(sampler: Sampler, epoch: int) -> list[list[int]]:
    steps = sampler.steps_per_epoch
    return [sampler.rows(step).tolist() for step in range(epoch * steps, (epoch + 1) * steps)]


@settings(max_examples=25)
@given(st.integers(2, 200), st.integers(2, 40), st.integers(0, 5), st.integers(0, 3))
def test_every_row_comes_once_an_epoch(n: int, batch: int, seed: int, epoch: int) -> None:
    if batch > n:
        return
    sampler = mixed(n, batch, seed)
    batches = epoch_of(sampler, epoch)
    assert sorted(itertools.chain(*batches)) == list(range(n))
    assert {len(rows) for rows in batches[:-1]} <= {batch} and 2 <= len(batches[-1]) <= batch + 1
    assert sum(len(sampler.rows_of(epoch, number)) for number in range(sampler.count)) == n
    if sampler.count == 1:
        assert batches == epoch_of(Mixed(n, batch, seed), epoch)


def test_an_order_depends_on_seed_and_epoch_and_not_on_the_calls_before() -> None:
    late = mixed(100, 8, 0).rows(17).tolist()
    sampler = mixed(100, 8, 0)
    assert [sampler.rows(step).tolist() for step in range(18)][17] == late
    assert mixed(100, 8, 1).rows(17).tolist() != late != sampler.rows(4).tolist()


def test_the_order_is_pinned() -> None:
    """A checkpoint stores no order: changing it would break every resumed run."""
    assert mixed(100, 8, 0).rows(5).tolist() == [56, 0, 97, 87, 3, 1, 2, 99]


def test_windows_are_of_shuffled_blocks() -> None:
    sampler = mixed(100, 8, 0)
    found = [sampler.rows_of(0, number) for number in range(4)]
    for rows in found:
        assert len(set((rows // 4).tolist())) <= len(rows) / 4 + 2, "whole blocks but for those at the ends"
    assert sorted(found[0].tolist()) != list(range(24)), "blocks from all over the rows"
    assert found[0].tolist() != sampler.rows_of(1, 0).tolist()


def streamed(texts: list[tuple[str, ...]], *, streaming: bool = True, sources: int = 1) -> TrainingData:
    return data_of(*[SourceTable("pairs", texts)] * sources, streaming=streaming)


def config(data: TrainingData, **batch: object) -> TrainConfig:
    return TrainConfig(data=data.sources, batch=BatchConfig(size=6, **batch))


TEXTS: list[tuple[str, ...]] = [(f"q{number}", f"p{number % 31}") for number in range(100)]


def test_no_text_comes_twice_in_a_batch() -> None:
    data = streamed(TEXTS)
    for no_duplicates in (True, False):
        sampler = make_sampler(config(data, no_duplicates=no_duplicates), data)
        assert isinstance(sampler, Windows) and sampler.count == 4
        found = epoch_of(sampler, 1)
        assert sorted(itertools.chain(*found)) == list(range(100))
        positives = [[TEXTS[row][1] for row in rows] for rows in found]
        assert all(len(set(some)) == len(some) for some in positives) is no_duplicates


def test_one_window_has_the_order_of_rows_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW", 100)
    labelled = SourceTable("labelled", [(f"t{row}",) for row in range(60)], labels=[str(row % 5) for row in range(60)])
    for batch in ({}, {"no_duplicates": True}, {"sources": "single"}):
        orders = []
        for streaming in (True, False):
            data = streamed(TEXTS, streaming=streaming, sources=1 + ("sources" in batch))
            sampler = make_sampler(config(data, **batch), data)
            orders.append(epoch_of(sampler, 0) + epoch_of(sampler, 2))
        assert orders[0] == orders[1]
    pair = [data_of(labelled, streaming=streaming) for streaming in (True, False)]
    samplers = [make_sampler(TrainConfig(data=data.sources, batch=BatchConfig(size=12)), data) for data in pair]
    assert epoch_of(samplers[0], 1) == epoch_of(samplers[1], 1)


def test_queries_stay_whole_within_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row comes once an epoch, and a window has exactly the batches that are counted for it."""
    rows: list[tuple[str, ...]] = [(f"q{number // 3}", f"p{number}") for number in range(103)]
    together = replace(config(streamed(rows)), batch=BatchConfig(size=9), loss=LossConfig(positives="mean"))
    sampler = make_sampler(together, streamed(rows))
    assert isinstance(sampler, Windows) and sampler.count == 5
    for epoch in range(3):
        assert sorted(itertools.chain(*epoch_of(sampler, epoch))) == list(range(103))
    for number in range(5):
        window, drawn = sampler.window(1, number)
        batches = epoch_of(drawn, 1)
        anchors = [[rows[window[place]][0] for place in batch] for batch in batches]
        assert all(len(set(some)) >= 2 for some in anchors)
        assert all(sum(rows[row][0] in some for some in anchors) == 1 for row in window)
    with pytest.raises(UserError, match=r"batch\.no_duplicates: data\.0 is streamed and loss\.positives keeps"):
        make_sampler(replace(together, batch=BatchConfig(size=9, no_duplicates=True)), streamed(rows))
    monkeypatch.setattr(windows, "WINDOW", 103)
    for batch in ({}, {"no_duplicates": True}):
        usual = replace(together, batch=BatchConfig(size=9, **batch))
        orders = [epoch_of(make_sampler(usual, streamed(rows, streaming=way)), 1) for way in (True, False)]
        assert orders[0] == orders[1]


def test_a_run_of_an_earlier_version_is_told_of_the_new_order(caplog: pytest.LogCaptureFixture) -> None:
    """Once, and only where there are several windows."""
    one, several = mixed(40, 8, 0), mixed(100, 8, 0)
    parts = OneSource((one, several), (40, 100), (1.0, 1.0), 0)
    cases: list[tuple[Sampler, dict[str, object], int]] = [
        (several, {"step": 7}, 1),
        (parts, {"step": 7}, 1),
        (one, {"step": 7}, 0),
        (several, asdict(TrainState(step=7)), 0),
        (Mixed(100, 8, 0), {"step": 7}, 0),
    ]
    for sampler, saved, expected in cases:
        state = TrainState()
        state.take(saved)
        for _ in range(2):
            tell_of_windows(state, sampler, is_main=True)
        assert caplog.text.count("the first 7 steps were made by an earlier version") == expected
        caplog.clear()


def test_weights_of_streamed_sources() -> None:
    sources = tuple(SourceConfig(weight=weight, streaming=True) for weight in (3.0, 1.0))
    tables = (SourceTable("pairs", TEXTS), SourceTable("pairs", TEXTS))
    data = TrainingData(sources, tables, ())
    sampler = make_sampler(config(data, sources="single"), data)
    assert isinstance(sampler, OneSource) and all(isinstance(part, Windows) for part in sampler.parts)
    drawn: list[Indices] = [sampler.rows(step) for step in range(800)]
    first = sum(int(rows.max() < 100) for rows in drawn)
    assert all(rows.max() < 100 or rows.min() >= 100 for rows in drawn)
    assert 0.7 < first / 800 < 0.8
    own = np.concatenate([rows for rows in drawn if rows.max() < 100][:16])
    assert len(set(own.tolist())) == len(own), "its rows come once before any comes again"
