"""A beginning that is run once a step gives the loss and every gradient of one that is run with every text."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dec2vec import ModelConfig
from dec2vec.encoder import Encoder
from tests.helpers import FEW_FAMILIES
from tests.test_gradcache import LOSS, ROWS, close
from tests.tiny_run import train, write_run
from tests.training_setup import gradients, tiny_encoder, tiny_table
from train.adapters.capabilities import why_not_shared
from train.config import BatchConfig, LoraConfig
from train.data.batch import BatchOptions, LocalBatch, prepare
from train.distributed.single import Single
from train.gradcache.cached_step import cached_step
from train.gradcache.prefix import PrefixGradient
from train.losses.infonce.infonce import infonce
from train.losses.objective import Temperature

PROMPT = "Instruct: the text that follows means: {text}"


def step(encoder: Encoder, *, share: bool, graph_tokens: int = 100) -> tuple[float, dict[str, Tensor], LocalBatch]:
    batch = prepare(tiny_table(24), ROWS, encoder, BatchOptions(60, share_prefix=share))
    objective = partial(infonce, rows=batch.loss_inputs, config=LOSS, temperature=Temperature(0.05, learned=False))
    model = Single(encoder.embedder)
    result = cached_step(model, batch.chunks, objective, graph_tokens=graph_tokens, prefix=batch.prefix)
    return float(result.loss), gradients(encoder.embedder), batch


@pytest.mark.parametrize("family", FEW_FAMILIES)
def test_equals_the_unshared_step(tmp_path: Path, family: str) -> None:
    encoder = tiny_encoder(tmp_path, family, prompt=PROMPT, max_length=100, lora=LoraConfig(rank=4, alpha=4))
    encoder.embedder.train()
    loss, expected, whole = step(encoder, share=False)
    for graph_tokens in (0, 100, 10_000):
        found_loss, found, batch = step(encoder, share=True, graph_tokens=graph_tokens)
        assert batch.prefix is not None and batch.padded_tokens < 0.6 * whole.padded_tokens
        assert found_loss == pytest.approx(loss, rel=1e-5)
        assert close(found, expected)


@pytest.mark.parametrize("reading", [{"pooling": "mean"}, {"pooling": "first_last", "layer": 2}, {"layer": 1}])
def test_poolings_and_layers_and_full_tuning(tmp_path: Path, reading: dict[str, object]) -> None:
    for lora in (LoraConfig(rank=4, alpha=4), LoraConfig(method="full")):
        encoder = tiny_encoder(tmp_path, prompt=PROMPT, max_length=100, lora=lora, **reading)
        _, expected, _ = step(encoder, share=False)
        _, found, batch = step(encoder, share=True)
        assert batch.prefix is not None and close(found, expected)


def test_without_the_gradient_at_the_beginning_it_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_encoder(tmp_path, prompt=PROMPT, max_length=100)
    _, expected, _ = step(encoder, share=False)
    monkeypatch.setattr("train.gradcache.prefix.PrefixGradient.backward", lambda self, model: None)
    _, found, _ = step(encoder, share=True)
    assert not close(found, expected)


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        (LoraConfig(rank=4, dropout=0.1), "dropout"),
        (LoraConfig(rank=4, gradient_checkpointing=True), "checkpointed"),
    ],
)
def test_falls_back_where_it_would_differ(tmp_path: Path, lora: LoraConfig, reason: str) -> None:
    encoder = tiny_encoder(tmp_path, prompt=PROMPT, max_length=100, lora=lora)
    assert reason in str(why_not_shared(Single(encoder.embedder)))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_run_shares_a_beginning_unless_it_would_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ModelConfig(name_or_path="decoder", max_length=96, device="cpu", autocast="off", prompt=PROMPT)
    batch = BatchConfig(size=8)
    config = write_run(tmp_path, model=model, lora=LoraConfig(rank=4, dropout=dropout), batch=batch)
    batches: list[LocalBatch] = []

    def noted(*arguments: Any) -> LocalBatch:
        batches.append(prepare(*arguments))
        return batches[-1]

    monkeypatch.setattr("train.loop.batches.prepare", noted)
    train(config, tmp_path / "out", "--optim.steps", "2", "--export.model", "false")
    assert len(batches) == 2 and all((batch.prefix is None) == (dropout > 0) for batch in batches)


def test_gradients_at_a_bfloat16_beginning_add_up_in_float32(tmp_path: Path) -> None:
    """Those of 28 chunks of one text, against their sum in float64; added in bfloat16 they are 0.7 % off."""
    encoder = tiny_encoder(
        tmp_path, prompt=PROMPT, max_length=100, dtype="bfloat16", lora=LoraConfig(rank=4, fused=False)
    )
    batch = prepare(tiny_table(24), ROWS, encoder, BatchOptions(1, share_prefix=True))
    beginning = PrefixGradient.read(encoder.embedder, batch.prefix)
    assert beginning.shared is not None and len(batch.chunks) > 25
    layers = beginning.shared.cache.layers
    assert all(layer.keys.dtype == layer.values.dtype == torch.bfloat16 for layer in layers)
    leaves = beginning.leaves[: 2 * len(layers)]  # nothing reads the states
    exact = [torch.zeros_like(leaf, dtype=torch.float64) for leaf in leaves]
    rounded = [torch.zeros_like(leaf, dtype=torch.bfloat16) for leaf in leaves]
    for chunk in batch.chunks:
        for keep in (True, False):
            pooled = encoder.embedder(chunk.input_ids, chunk.lengths, prefix=beginning.shared)[0].square().sum()
            if keep:
                pooled.backward()
                continue
            for total, short, found in zip(exact, rounded, torch.autograd.grad(pooled, leaves), strict=True):
                total += found.double()
                short += found.bfloat16()

    def error(found: list[Tensor]) -> float:
        return max(float((one.double() - two).norm() / two.norm()) for one, two in zip(found, exact, strict=True))

    sums = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert error(sums) < 1e-6 and error(rounded) > 1e-3


def test_short_beginnings_are_not_worth_it(tmp_path: Path) -> None:
    assert prepare(tiny_table(24), ROWS, tiny_encoder(tmp_path), BatchOptions(60, share_prefix=True)).prefix is None
