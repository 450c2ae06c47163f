"""Merged LoRA layers give PEFT's own loss and gradients, follow every change of the weights, and save the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import Linear as PeftLinear
from safetensors.torch import load_file
from torch import Tensor

from dec2vec.decoder.embedder import Embedder
from tests.test_gradcache import ROWS, cached, close
from tests.training_setup import tiny_encoder
from train.adapters.lora import trainable_parameters
from train.config import LoraConfig, OptimConfig
from train.distributed.interface import EngineOptimizer
from train.distributed.single import Single
from train.kernels.lora_linear import FastLinear
from train.losses.objective import Temperature
from train.optim import make_optimizer
from train.step import seed_dropout


def step(folder: Path, family: str, **options: object) -> tuple[float, dict[str, Tensor], Embedder]:
    encoder = tiny_encoder(folder, family, lora=LoraConfig(**{"rank": 4, "alpha": 8.0, **options}))
    encoder.embedder.train()
    seed_dropout(1, 0)
    return *cached(encoder, ROWS, 60, 100), encoder.embedder


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2", "qwen3"])
@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"rslora": True}, {"dora": True}])
def test_equals_peft(tmp_path: Path, family: str, options: dict[str, object]) -> None:
    loss, expected, _ = step(tmp_path, family, fused=False, **options)
    found_loss, found, embedder = step(tmp_path, family, fused=True, **options)
    fast = [module for module in embedder.modules() if isinstance(module, FastLinear)]
    merges = (
        {"phi"} if not {"dropout", "dora"} & options.keys() else set()
    )  # Llama and Qwen3: train.kernels.decoder_block
    assert fast and any(module._merged is not None for module in fast) == (family in merges)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert close(found, expected)


def test_follows_the_optimizer_and_loading(tmp_path: Path) -> None:
    """With the stale merged weights as negative control."""
    encoder = tiny_encoder(tmp_path)
    first, _ = cached(encoder, ROWS, 60, 100)
    optimizer = make_optimizer(Single(encoder.embedder), Temperature(0.05, learned=False), OptimConfig(lr=0.1))
    start = {name: value.detach().clone() for name, value in trainable_parameters(encoder.embedder).items()}
    change(optimizer, encoder.embedder)
    second, _ = cached(encoder, ROWS, 60, 100)
    with torch.no_grad():
        for name, value in trainable_parameters(encoder.embedder).items():
            value.copy_(start[name])
    third, _ = cached(encoder, ROWS, 60, 100)
    assert abs(second - first) > 1e-3 and third == pytest.approx(first, rel=1e-6)


def change(optimizer: EngineOptimizer, embedder: Embedder) -> None:
    for parameter in trainable_parameters(embedder).values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


def test_saves_and_merges_as_peft(tmp_path: Path) -> None:
    files = []
    for fast in (True, False):
        embedder = tiny_encoder(tmp_path, lora=LoraConfig(rank=4, fused=fast)).embedder
        embedder.backbone.save_pretrained(tmp_path / str(fast))
        files.append(load_file(tmp_path / str(fast) / "adapter_model.safetensors"))
    assert files[0].keys() == files[1].keys()
    assert all(files[0][name].equal(files[1][name]) for name in files[0])
    merged = embedder.backbone.merge_and_unload()
    assert not any(isinstance(module, PeftLinear) for module in merged.modules())
