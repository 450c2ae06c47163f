"""What a graph holds grows with the tokens, is what memory really grows by, and bounds the tokens that are kept."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from dec2vec.batching import Chunk
from dec2vec.decoder.embedder import Embedder
from tests.training_setup import tiny_encoder
from train.adapters.lora import trainable_parameters
from train.config import LoraConfig
from train.distributed.single import Single
from train.gradcache.graph_budget import GraphBudget
from train.gradcache.memory import (
    affordable_chunk,
    chunk_budget,
    free_bytes,
    graph_bytes,
    own_bytes,
    token_bytes,
)

CPU = torch.device("cpu")


def chunk(rows: int, width: int) -> Chunk:
    return Chunk(torch.arange(rows), torch.full((rows, width), 5), torch.full((rows,), width))


def test_twice_the_tokens_hold_twice_as_much(tmp_path: Path) -> None:
    model = Single(tiny_encoder(tmp_path).embedder)
    once, twice = (graph_bytes(model, chunk(rows, 20)) for rows in (50, 100))
    assert once > 50 * 20 * 4 * 16 and 1.9 * once < twice < 2.1 * once
    frozen = Single(tiny_encoder(tmp_path, lora=LoraConfig(targets=("down_proj",))).embedder)
    assert graph_bytes(frozen, chunk(50, 20)) < once


def test_counts_activations_not_weights() -> None:
    """Of x W, with W trained: autograd keeps x, and W which is there anyway."""

    class Stub(Embedder):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.backbone = nn.Linear(8, 8, bias=False)

        def forward(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[override]
            return [self.backbone(torch.ones(len(lengths), 8) * 2)]

    assert graph_bytes(Single(Stub()), chunk(10, 3)) == 10 * 8 * 4


def test_a_measured_graph_is_gone_again(tmp_path: Path) -> None:
    """Outputs that hooks save as they are would be held by their own graph."""
    model = Single(tiny_encoder(tmp_path).embedder)
    before = tensor_bytes()
    held = graph_bytes(model, chunk(100, 20))
    assert tensor_bytes() - before < held / 10

    def leak(tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(leak, leak):
        model.embedder(chunk(100, 20).input_ids, chunk(100, 20).lengths)
    assert tensor_bytes() - before > held / 10


def tensor_bytes() -> int:
    gc.collect()
    found = [item for item in gc.get_objects() if type(item) is torch.Tensor]
    return sum({item.untyped_storage().data_ptr(): item.untyped_storage().nbytes() for item in found}.values())


def budget(
    model: Single, setting: int | Literal["auto"], monkeypatch: pytest.MonkeyPatch, **readings: int
) -> GraphBudget:
    for name, value in readings.items():
        monkeypatch.setattr(f"train.gradcache.graph_budget.{name}", lambda *_, value=value: value)
    return GraphBudget(model, [chunk(50, 20), chunk(10, 20)], setting)


def test_a_run_takes_two_fifths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs, the process without them, gradients, moments, and a pass with its temporary memory."""
    model = Single(tiny_encoder(tmp_path).embedder)
    token = token_bytes(model, chunk(50, 20))
    found = budget(model, "auto", monkeypatch, own_bytes=10**7, free_bytes=10**8)
    trained = 4 * sum(weight.numel() for weight in trainable_parameters(model.embedder).values())
    expected = (0.4 * 1.1 * 10**8 - 10**7 - 3 * trained - 1.3 * 1000 * token) / token
    assert found.room() == pytest.approx(expected, abs=1) and found.room() > 100
    held = found.room() * token + found.needs.rest
    assert 0.39 * 1.1 * 10**8 < held <= 0.4 * 1.1 * 10**8
    assert budget(model, "auto", monkeypatch, own_bytes=10**7, free_bytes=0).room() == 0


def test_less_free_memory_less_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = Single(tiny_encoder(tmp_path).embedder)
    found = budget(model, "auto", monkeypatch, own_bytes=10**7, free_bytes=10**8)
    first = found.at_step(wanted=10**6)
    monkeypatch.setattr("train.gradcache.graph_budget.free_bytes", lambda device: 5 * 10**7)
    assert 0 < found.at_step(wanted=10**6) < first / 2
    assert "less memory is free" in caplog.text
    monkeypatch.setattr("train.gradcache.graph_budget.free_bytes", lambda device: 10**8)
    assert found.at_step(wanted=10**6) == first


def test_a_number_is_the_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take more than two fifths, but not the last tenth."""
    model = Single(tiny_encoder(tmp_path).embedder)
    auto = budget(model, "auto", monkeypatch, own_bytes=10**7, free_bytes=10**8).room()
    assert budget(model, 77, monkeypatch).room() == 77
    assert budget(model, auto + 500, monkeypatch).room() == auto + 500
    assert auto + 500 < budget(model, 10**9, monkeypatch).room() < 10**6
    assert budget(model, 77, monkeypatch, free_bytes=0).room() == 0


def test_a_container_has_less_than_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.gradcache.memory._CGROUP", tmp_path)
    machine = free_bytes(CPU)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert free_bytes(CPU) == 3000 < machine
    (tmp_path / "memory.stat").write_text("anon 1500\ninactive_file 400\n")  # can be dropped
    assert free_bytes(CPU) == 3400
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 10**6


@pytest.mark.parametrize(
    ("line", "folder", "limit", "usage"),
    [
        ("0::/user.slice/job", ".", "memory.max", "memory.current"),
        ("5:cpu,memory:/user.slice/job", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_the_tightest_of_nested_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, folder: str, limit: str, usage: str
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(f"7:cpuset:/elsewhere\n{line}\n")
    (proc / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   50 kB\n")
    (proc / "self" / "status").write_text("VmRSS: 9 kB\nRssAnon:   7 kB\n")
    monkeypatch.setattr("train.gradcache.memory._CGROUP", groups)
    monkeypatch.setattr("train.gradcache.memory._PROC", proc)
    assert (free_bytes(CPU), own_bytes(CPU)) == (50 * 1024, 7 * 1024)
    for place, most, used in (("", 9223372036854771712, 10), ("user.slice", 9000, 1000), ("user.slice/job", 9000, 500)):
        group = groups / folder / place
        group.mkdir(parents=True, exist_ok=True)
        (group / limit).write_text(str(most))
        (group / usage).write_text(str(used))
    assert free_bytes(CPU) == 8000


def test_chunks_of_a_device() -> None:
    assert chunk_budget(77, CPU) == 77
    assert chunk_budget("auto", CPU) == 1024 < chunk_budget("auto", torch.device("cuda")) == 16_384


GB = 10**9


@pytest.mark.parametrize(
    ("token", "free", "expected"),
    [
        (2_057_000, 138 * GB, 16_384),  # Qwen3-0.6B on an H200
        (2_057_000, 22 * GB, 4_278),  # and on a card of 24 GB, where 16,384 tokens would take 33.7
        (7_320_000, 22 * GB, 1_202),  # Mistral-7B without checkpointing: 16,384 tokens take 120 GB
        (2_057_000, 0, 1),
    ],
)
def test_a_chunk_takes_two_fifths_of_an_accelerator(token: int, free: int, expected: int) -> None:
    found = affordable_chunk(token, free)
    assert found == expected
    assert found == 1 or found * token <= 0.4 * free
