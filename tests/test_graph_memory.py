"""What a graph holds grows with the tokens, is what memory really grows by, and bounds the tokens that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dec2vec.batching import Chunk
from dec2vec.decoder.embedder import Embedder
from tests.training_setup import tiny_encoder
from train.config import LoraConfig
from train.distributed.single import Single
from train.gradcache.memory import activation_budget, chunk_budget, free_bytes, graph_bytes

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


def test_free_memory_sets_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Single(tiny_encoder(tmp_path).embedder)
    held = graph_bytes(model, chunk(50, 20))
    monkeypatch.setattr("train.gradcache.memory.free_bytes", lambda device: 4 * held)
    assert activation_budget(model, chunk(50, 20)) == 2 * 50 * 20
    monkeypatch.setattr("train.gradcache.memory.free_bytes", lambda device: 0)
    assert activation_budget(model, chunk(50, 20)) == 0


def test_a_container_has_less_than_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.gradcache.memory._CGROUP", tmp_path)
    machine = free_bytes(CPU)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert free_bytes(CPU) == 3000 < machine
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 10**6


def test_chunks_of_a_device() -> None:
    assert chunk_budget(77, CPU) == 77
    assert chunk_budget("auto", CPU) == 1024 < chunk_budget("auto", torch.device("cuda"))
