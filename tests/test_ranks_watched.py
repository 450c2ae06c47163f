"""Several processes watch each other: one that is gone, slow, or has other weights is noticed and named."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import time
import unittest.mock
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator, InitProcessGroupKwargs

import train.adapters.lora
import train.distributed.engine
import train.loop.fit
import train.step
from dec2vec import ModelConfig
from dec2vec.errors import TryAgain, run
from tests.helpers import tiny_model_folder
from tests.processes import run_ranks
from tests.test_engines import FSDP2
from tests.test_whole_run_on_ranks import NO_DROPOUT
from tests.tiny_run import train as train_run
from tests.tiny_run import write_run
from tests.training_setup import tiny_encoder
from train.config import CheckpointConfig, DistributedConfig, EvalSection, LoraConfig, TrainConfig
from train.distributed.diverged_ranks import check_replicas_equal, checksums
from train.distributed.engine import make_accelerator, wrap
from train.distributed.lost_ranks import lost_rank_message, why_lost
from train.finish import leave
from train.tracking.metrics_file import read_metrics
from train.tracking.step_metrics import rank_seconds

NO_DEV = EvalSection(after_training=False)


# drift


def drifted(dtype: torch.dtype) -> tuple[str, str]:
    """Nothing while the weights are equal; then what ranks say when rank 2's differ in a single last bit."""
    torch.manual_seed(0)
    weights = {"first": torch.randn(3, 5).to(dtype), "second": torch.randn(4).to(dtype), "empty": torch.empty(0)}
    check_replicas_equal(weights, 1)
    if dist.get_rank() == 2:
        weights["second"][1] = torch.nextafter(weights["second"][1], torch.tensor(math.inf, dtype=dtype))
    with pytest.raises(TryAgain) as several:
        check_replicas_equal(weights, 7)
    if dist.get_rank() != 0:
        weights["first"] += 1
    with pytest.raises(TryAgain) as most:
        check_replicas_equal({"first": weights["first"]}, 8)
    return str(several.value), str(most.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_single_bit_is_found_and_the_minority_named(dtype: torch.dtype) -> None:
    for several, most in run_ranks(3, drifted, dtype):
        assert several.startswith(
            "step 7: the trained weights of rank 2 of 3 differ from those of the others, first in second;"
        )
        assert most.startswith("step 8: the trained weights of rank 0 of 3 differ")


def test_checksums_are_sums_of_bits() -> None:
    values = torch.tensor([1.0, -2.5, 3e-8])
    bits = values.numpy().view("int32").astype("int64")
    assert checksums({"a": values, "b": torch.zeros(2, dtype=torch.float64)}).tolist() == [int(bits.sum()), 0]


def drifting_run(config: Path, output: Path) -> str:
    """Rank 1's weights change after step 5, as a broken device may change them."""
    step = train.loop.fit.train_step

    def faulty(learner: Any, batch: Any, number: int, *arguments: Any, **options: Any) -> Any:
        result = step(learner, batch, number, *arguments, **options)
        if number == 4 and dist.get_rank() == 1:
            with torch.no_grad():
                next(iter(train.adapters.lora.trainable_parameters(learner.model.embedder).values())).mul_(1.001)
        return result

    train.loop.fit.train_step = faulty
    with pytest.raises(TryAgain) as caught:
        train_run(config, output)
    return str(caught.value)


def test_no_checkpoint_holds_drifted_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the next comparison by itself would be far away."""
    monkeypatch.chdir(tmp_path)
    sections = {"checkpoint": CheckpointConfig(every=3), "distributed": DistributedConfig(compare_every=1000)}
    config = write_run(tmp_path, lora=NO_DROPOUT, eval=NO_DEV, **sections)
    for message in run_ranks(2, drifting_run, config, tmp_path / "out"):
        assert message.startswith("step 6: the trained weights of rank 1 of 2 differ")
    assert [path.name for path in (tmp_path / "out" / "checkpoints").glob("step-*")] == ["step-000003"]


# pace


def slow_run(config: Path, output: Path) -> None:
    embed = train.step.cached_step

    def slowly(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.25 if dist.get_rank() == 1 else 0.0)
        return embed(*arguments, **options)

    train.step.cached_step = slowly
    train_run(config, output, "--optim.steps", "5", "--export.model", "false")


def test_a_slow_rank_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the whole step takes equally long on both."""
    monkeypatch.chdir(tmp_path)
    config = write_run(tmp_path, lora=NO_DROPOUT, eval=NO_DEV)
    run_ranks(2, slow_run, config, tmp_path / "out")
    lines = [line for line in read_metrics(tmp_path / "out" / "metrics.jsonl") if line["slowest_rank"] == 1]
    assert len(lines) >= 3  # of 5: on a busy machine another one may be the slowest by chance
    assert all(float(line["rank_seconds_max"] or 0) >= 0.25 for line in lines)
    ahead = [float(line["rank_seconds_max"] or 0) - float(line["rank_seconds_median"] or 0) for line in lines]
    assert max(ahead) > 0.05  # half of what one sleeps; whole steps would differ by nothing


def test_pace() -> None:
    assert rank_seconds([0.5]) == {}
    assert rank_seconds([1.0, 4.0, 2.0]) == {"rank_seconds_median": 2.0, "rank_seconds_max": 4.0, "slowest_rank": 1.0}


# lost processes


class Gone(BaseException):
    """As a rank ends that is killed: without a word to the others."""


def deserted_run(config: Path, output: Path) -> str | None:
    step = train.loop.fit.train_step

    def leaving(learner: Any, batch: Any, number: int, *arguments: Any, **options: Any) -> Any:
        if number == 4 and dist.get_rank() == 1:
            raise Gone
        return step(learner, batch, number, *arguments, **options)

    train.loop.fit.train_step = leaving
    try:
        train_run(config, output)
    except TryAgain as error:
        assert signal.alarm(0) > 0  # it would end even if the broken group held it up
        return str(error)
    except Gone:
        return None
    raise AssertionError("the run went on without a rank")


def test_a_lost_rank_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_run(tmp_path, lora=NO_DROPOUT, eval=NO_DEV)
    message, silent = run_ranks(2, deserted_run, config, tmp_path / "out")
    assert silent is None and message is not None and "\n" not in message
    assert message.startswith("rank 0 of 2, after step 4: lost a process on 127.0.0.1")
    assert f"the last checkpoint in {tmp_path}/out/checkpoints" in message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            "[../gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.77.0.2]:41230",
            "lost a process on 10.77.0",
        ),
        ("[pair.cc:1] Read error [::1]:7: Connection reset by peer", "lost a process on ::1"),
        ("Timed out waiting 15000ms for recv operation to complete", "no response from another process for 15 s"),
        ("Timed out after 31 seconds waiting for clients. 1/2 clients joined.", "no response from another process"),
        (
            "[pair.cc:152] timed out connecting: SO_ERROR: Connection refused, remote=[10.77.0.1]:61327",
            "a process on 10.77.0.1 refused the connection; if it exited, its address was still in torchrun's store",
        ),
        ("The size of tensor a (3) must match the size of tensor b (4)", None),
        ("CUDA out of memory", None),
        ("CUDA error: the launch timed out and was terminated", None),
    ],
)
def test_what_errors_mean(error: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    found = why_lost(error, 15.0)
    assert found is None if expected is None else found is not None and expected in found
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError), lost_rank_message(TrainConfig()):  # one process alone has nobody to lose
        raise RuntimeError(error)


def test_exit_code_and_one_speaker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Local rank 0 may be the one that died: the first process to fail speaks for the machine."""

    def fail(argv: object) -> None:
        raise TryAgain("gone")

    for rank in ("1", "0"):
        folder = tmp_path / "attempt_0" / rank
        folder.mkdir(parents=True)
        monkeypatch.setenv("LOCAL_RANK", rank)
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(folder / "error.json"))
        assert run(fail, []) == 75
        assert capsys.readouterr().err == ("dec2vec: error: gone\n" if rank == "1" else "")
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    assert run(fail, []) == 75 and capsys.readouterr().err == "dec2vec: error: gone\n"


def test_the_timeout_reaches_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    class Noted(Accelerator):
        def __init__(self, **options: Any) -> None:
            found.update(options)

    monkeypatch.setattr(train.distributed.engine, "Accelerator", Noted)
    train.distributed.engine.make_accelerator(TrainConfig(distributed=DistributedConfig(timeout=7.5)))
    (handler,) = found["kwargs_handlers"]
    assert isinstance(handler, InitProcessGroupKwargs)
    assert dataclasses.asdict(handler)["timeout"] == timedelta(seconds=7.5)


def test_under_nccl_no_process_waits_for_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """To end an NCCL group is a collective call; a process that has nothing more to do just ends."""
    done: list[object] = []
    accelerator = unittest.mock.Mock(spec=Accelerator)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(os, "_exit", done.append)
    for backend, exits in (("nccl", [0]), ("gloo", [])):
        monkeypatch.setattr(dist, "get_backend", lambda backend=backend: backend)
        done.clear()
        leave(accelerator)
        assert done == exits


# memory


def embed_without_memory(folder: Path) -> None:
    """The second rank finds no memory for its first pass, as on a GPU that something else uses too."""
    os.environ.update(FSDP2)
    accelerator = make_accelerator(TrainConfig(model=ModelConfig(device="cpu")))
    encoder = tiny_encoder(folder, lora=LoraConfig(fused=False), device="cpu")
    wrap(encoder.embedder, accelerator)
    if accelerator.process_index == 1:
        encoder.embedder.register_forward_pre_hook(_raise_once())
    encoder.encode(["a man rides a horse", "a dog"])


def _raise_once() -> Callable[..., None]:
    left = [MemoryError()]

    def raise_once(*_: object) -> None:
        if left:
            raise left.pop()

    return raise_once


def test_a_rank_without_memory_ends_the_run_and_does_not_hang(tmp_path: Path) -> None:
    """Halving its chunk would make it gather once more than the others, which would wait for it forever."""
    tiny_model_folder(tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)rank 1 failed.*not enough memory to embed 2 texts of .* tokens"):
        run_ranks(2, embed_without_memory, tmp_path, limit=30.0)
