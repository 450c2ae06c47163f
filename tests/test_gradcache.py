"""Invariant 3: gradient caching gives the loss and every gradient of the plain step; a different batch must not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dec2vec.encoder import Encoder
from tests.helpers import FEW_FAMILIES
from tests.training_setup import gradients, tiny_encoder, tiny_table
from train.config import LoraConfig
from train.data.batch import BatchOptions, prepare
from train.distributed.single import Single
from train.gradcache.cached_step import cached_step
from train.losses.infonce.infonce import infonce
from train.losses.objective import Temperature
from train.options.losses import LossConfig
from train.step import seed_dropout

ROWS = np.arange(12)
LOSS = LossConfig(temperature=0.05)


def plain(encoder: Encoder, rows: np.ndarray) -> tuple[float, dict[str, torch.Tensor]]:
    """The textbook step: one text at a time with its graph, autograd through one InfoNCE."""
    texts_of = tiny_table(24).tables[0].texts

    def vector(text: str, side: str) -> torch.Tensor:
        (ids,) = encoder.tokenize([text], side=side)
        (pooled,) = encoder.embedder(torch.tensor([ids]), torch.tensor([len(ids)]))
        return pooled[0]

    anchors = torch.stack([vector(texts_of[row][0], "query") for row in rows])
    texts = [texts_of[row][1] for row in rows] + [text for row in rows for text in texts_of[row][2:]]
    documents = torch.stack([vector(text, "document") for text in texts])
    logits = F.normalize(anchors, dim=1) @ F.normalize(documents, dim=1).T / LOSS.temperature
    loss = F.cross_entropy(logits, torch.arange(len(rows)))
    loss.backward()
    return float(loss.detach()), gradients(encoder.embedder)


def cached(
    encoder: Encoder,
    rows: np.ndarray,
    chunk_tokens: int,
    graph_tokens: int,
    room: Callable[[], int] | None = None,
    threads: int | None = None,
) -> tuple[float, dict[str, torch.Tensor]]:
    batch = prepare(tiny_table(24), rows, encoder, BatchOptions(chunk_tokens))
    temperature = Temperature(LOSS.temperature, learned=False)
    objective = partial(infonce, rows=batch.loss_inputs, config=LOSS, temperature=temperature)
    result = cached_step(
        Single(encoder.embedder), batch.chunks, objective, graph_tokens=graph_tokens, room=room, threads=threads
    )
    return float(result.loss), gradients(encoder.embedder)


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    return all(torch.allclose(found[name], expected[name], rtol=1e-5, atol=1e-5 * scale) for name in expected)


@pytest.mark.parametrize("family", FEW_FAMILIES)
def test_equals_the_plain_step(family: str, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, family)
    loss, expected = plain(encoder, ROWS)
    assert all(gradient.abs().max() > 0 for gradient in expected.values())
    for chunk_tokens, graph_tokens in ((1, 0), (60, 0), (60, 100), (60, 10_000), (10_000, 0)):
        found_loss, found = cached(encoder, ROWS, chunk_tokens, graph_tokens)
        assert found_loss == pytest.approx(loss, rel=1e-5)
        assert close(found, expected), (chunk_tokens, graph_tokens)


def test_a_different_batch_differs(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    loss, expected = plain(encoder, ROWS)
    other_loss, other = cached(encoder, ROWS + 1, 60, 0)
    assert other_loss != pytest.approx(loss, rel=1e-4)
    assert not close(other, expected)


READINGS = [("mean", -1), ("weighted_mean", -2), ("first_last", -2), ("max", -1)]
FURTHER = [("mean", -2), ("weighted_mean", -1), ("first_last", -1), ("max", -2)]


@pytest.mark.parametrize(
    ("pooling", "layer"), [*READINGS, *(pytest.param(*further, marks=pytest.mark.slow) for further in FURTHER)]
)
def test_every_pooling_and_inner_layers(pooling: str, layer: int, tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, pooling=pooling, layer=layer)
    _, expected = plain(encoder, ROWS)
    _, found = cached(encoder, ROWS, 60, 100)
    assert close(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"rslora": True},
        {"dora": True},
        {"init": "gaussian"},
        {"targets": ("q_proj", "v_proj")},
        {"modules_to_save": ("embed_tokens", "norm")},
    ],
)
def test_lora_variants(options: dict[str, object], tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, lora=LoraConfig(rank=4, **options))
    _, expected = plain(encoder, ROWS)
    _, found = cached(encoder, ROWS, 60, 0)
    assert close(found, expected)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_checkpointed_activations_change_nothing(method: str, tmp_path: Path) -> None:
    plain_encoder = tiny_encoder(tmp_path, lora=LoraConfig(method=method, rank=4))
    _, expected = cached(plain_encoder, ROWS, 60, 0)
    saving = tiny_encoder(tmp_path, lora=LoraConfig(method=method, rank=4, gradient_checkpointing=True))
    saving.embedder.train()
    _, found = cached(saving, ROWS, 60, 0)
    assert close(found, expected)


def test_dropout_is_replayed(tmp_path: Path) -> None:
    """With the same chunks, keeping the graphs and embedding twice draw the same dropout masks."""
    encoder = tiny_encoder(tmp_path, lora=LoraConfig(rank=4, dropout=0.3))
    encoder.embedder.train()
    results = []
    for seed, graph_tokens in ((1, 0), (1, 10_000), (1, 100), (2, 0)):
        seed_dropout(seed, 0)
        results.append(cached(encoder, ROWS, 60, graph_tokens))
    (loss, expected), kept, mixed, other = results
    assert kept[0] == loss and mixed[0] == loss and other[0] != loss
    assert close(kept[1], expected) and close(mixed[1], expected)
    assert not close(other[1], expected)


@pytest.mark.parametrize(("dropout", "threads"), [(0.3, 1), (0.0, 2)])
def test_graphs_that_are_dropped_change_no_bit(tmp_path: Path, dropout: float, threads: int) -> None:
    """However many graphs are kept, and whenever in a step they are dropped."""
    encoder = tiny_encoder(tmp_path, lora=LoraConfig(rank=4, dropout=dropout))
    encoder.embedder.train()
    shortages: list[tuple[list[int], int]] = [([], 10_000), ([], 100), ([10_000] * 2, 0), ([10_000] * 6, 60)]
    results, asked = [], []
    for graph_tokens, (before, after) in ((0, ([], 0)), *((10_000, shortage) for shortage in shortages)):
        readings = chain(before, repeat(after))
        asked.append(0)

        def room(readings: chain[int] = readings) -> int:
            asked[-1] += 1
            return next(readings)

        seed_dropout(1, 0)
        results.append(cached(encoder, ROWS, 60, graph_tokens, room, threads))
    loss, expected = results[0]
    assert asked[0] == 0 and min(asked[1:]) > 0
    for found_loss, found in results[1:]:
        assert found_loss == loss and all(found[name].equal(expected[name]) for name in expected)
    seed_dropout(1, 0)
    _, other = cached(encoder, ROWS, 90, 10_000, threads=threads)  # other chunks have other bits
    assert not all(other[name].equal(expected[name]) for name in expected)
