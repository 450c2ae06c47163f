"""A step without enough memory: fewer graphs, then smaller chunks in the first step, later one line with the option."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dec2vec.errors import UserError
from tests import tiny_run
from tests.tiny_run import fingerprint, metrics_of, steps_of, write_run
from train.config import BatchConfig, CheckpointConfig, EvalSection, LoraConfig, OptimConfig
from train.distributed.single import Single
from train.gradcache.cached_step import CachedStep, cached_step

STEPS = 4
Refuses = Callable[[int, int, int], bool]
"""Whether memory runs out, given the number of the attempt, the tokens of kept graphs and those of a chunk."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(
        tmp_path_factory.mktemp("memory"),
        lora=LoraConfig(rank=4, dropout=0.1),
        optim=OptimConfig(steps=STEPS, lr=1e-2),
        batch=BatchConfig(size=8, chunk_tokens=128, graph_tokens=256),
        checkpoint=CheckpointConfig(every=2),
        eval=EvalSection(dev=None, after_training=False),
    )


@pytest.fixture(scope="module")
def undisturbed(config: Path) -> Path:
    output = config.parent / "undisturbed"
    train(config, output)
    return output


def train(config: Path, output: Path, *overrides: str) -> None:
    with contextlib.chdir(config.parent):
        tiny_run.train(config, output, *overrides)


def steps_that_fail(monkeypatch: pytest.MonkeyPatch, refuses: Refuses, error: Exception) -> list[tuple[int, int]]:
    """Let steps fail in their last forward pass, and return the tokens of graphs and of a chunk of each attempt."""
    attempts: list[tuple[int, int]] = []

    def step(model: Single, chunks: Any, loss: Any, *, graph_tokens: int, **options: Any) -> CachedStep:
        largest = max(chunk.padded_tokens for chunk in chunks)
        attempts.append((graph_tokens, largest))
        number = len(attempts)
        if refuses(number, graph_tokens, largest):
            passes: Iterator[int] = iter(range(len(chunks) - 1))
            forward = Single.forward

            def failing(engine: Single, *inputs: Any) -> torch.Tensor:
                if next(passes, None) is None:
                    raise error
                return forward(engine, *inputs)

            with monkeypatch.context() as patch:
                patch.setattr(Single, "forward", failing)
                cached_step(model, chunks, loss, graph_tokens=graph_tokens, **options)
        return cached_step(model, chunks, loss, graph_tokens=graph_tokens, **options)

    monkeypatch.setattr("train.step.cached_step", step)
    return attempts


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_fewer_graphs_and_the_same_bits(
    config: Path, undisturbed: Path, tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    caplog.set_level(logging.INFO)
    attempts = steps_that_fail(monkeypatch, lambda number, kept, chunk: number >= 3 and kept > 130, error)
    train(config, tmp_path / "out")
    assert [kept > 130 for kept, _ in attempts[:4]] == [True, True, True, False] and len(attempts) > STEPS
    assert "keep their graph (batch.graph_tokens)" in caplog.text
    assert fingerprint(tmp_path / "out") == fingerprint(undisturbed)
    assert metrics_of(tmp_path / "out") == metrics_of(undisturbed)


def test_the_first_step_halves_its_chunks(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """And a run that goes on, or one that is given the noted number, has the same ones."""
    attempts = steps_that_fail(monkeypatch, lambda number, kept, chunk: chunk > 70, ERRORS[0])
    train(config, tmp_path / "out")
    noted = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["batch"]["chunk_tokens"]
    assert 20 < noted <= 70 and f"batch.chunk_tokens is {noted}, as is noted" in caplog.text
    assert attempts[0][1] > 70 and all(chunk <= noted for _, chunk in attempts[-STEPS:])
    monkeypatch.undo()
    train(config, tmp_path / "given", "--batch.chunk_tokens", str(noted))
    weights = [fingerprint(tmp_path / name) for name in ("given", "out")]
    for found in weights:
        assert [found.pop(name) for name in list(found) if name.endswith("state.json")]  # of which one has the note
    assert weights[0] == weights[1]


def test_a_later_step_names_the_option_and_the_run_goes_on(
    config: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_that_fail(monkeypatch, lambda number, kept, chunk: number > 3, ERRORS[0])
    with pytest.raises(UserError, match=r"^step 3: out of memory .*batch\.chunk_tokens 64"):
        train(config, tmp_path / "out")
    monkeypatch.undo()
    assert steps_of(tmp_path / "out") == [1, 2, 3]
    train(config, tmp_path / "out", "--batch.chunk_tokens", "64", "--batch.graph_tokens", "0")
    assert steps_of(tmp_path / "out") == list(range(1, STEPS + 1))
    assert metrics_of(tmp_path / "out")[:2] == metrics_of(undisturbed)[:2]


def test_other_errors_are_not_taken_for_it(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = steps_that_fail(monkeypatch, lambda number, kept, chunk: True, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        train(config, tmp_path / "out")
    assert len(attempts) == 1
