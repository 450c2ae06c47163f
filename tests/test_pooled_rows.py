"""The last block at the pooled token alone gives the vectors and gradients of the whole block."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.layers import decoder_blocks
from dec2vec.decoder.pooling import View
from tests.helpers import FAMILIES
from tests.test_early_exit import IDS, LENGTHS, gradients, same_gradients
from tests.training_setup import tiny_encoder
from train.config import LoraConfig

PLAIN = LoraConfig(rank=4, fused=False)
"""Blocks that call their MLP as a module, which shows what it is given."""
NARROW = {"llama", "mistral", "qwen2", "qwen3"}


def widths(embedder: Embedder) -> list[int]:
    """Tokens of a row that each block's MLP sees."""
    seen: list[int] = []
    blocks = decoder_blocks(embedder.backbone, embedder.layer_count)
    for block in blocks or ():
        block.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    embedder(IDS, LENGTHS)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [-1, 2])
def test_equals_the_whole_block(tmp_path: Path, family: str, layer: int) -> None:
    embedder = tiny_encoder(tmp_path, family, layer=layer, lora=LoraConfig(rank=4, alpha=4)).embedder
    embedder.train()
    found = embedder(IDS, LENGTHS)[0]
    embedder.narrow = False
    expected = embedder(IDS, LENGTHS)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    same_gradients(gradients(embedder, found), gradients(embedder, expected))
    other = embedder(IDS, LENGTHS - 1)[0]
    with pytest.raises(AssertionError):
        same_gradients(gradients(embedder, other), gradients(embedder, embedder(IDS, LENGTHS)[0]))


@pytest.mark.parametrize(("family", "last"), [("llama", 1), ("qwen3", 1), ("gemma", IDS.shape[1])])
def test_what_runs(tmp_path: Path, family: str, last: int) -> None:
    embedder = tiny_encoder(tmp_path, family, lora=PLAIN).embedder
    assert widths(embedder) == [IDS.shape[1]] * (embedder.layer_count - 1) + [last]


def test_other_readings_run_whole(tmp_path: Path) -> None:
    embedder = tiny_encoder(tmp_path, pooling="mean", lora=PLAIN).embedder
    assert set(widths(embedder)) == {IDS.shape[1]}
    embedder = tiny_encoder(tmp_path).embedder
    mixed = embedder(IDS, LENGTHS, [View("last", -1), View("mean", -1)])
    torch.testing.assert_close(mixed[0], embedder(IDS, LENGTHS)[0], rtol=1e-5, atol=1e-5)


def test_checkpointed_blocks_run_whole(tmp_path: Path) -> None:
    embedder = tiny_encoder(tmp_path, lora=LoraConfig(rank=4, gradient_checkpointing=True)).embedder
    embedder.train()
    assert set(widths(embedder)) == {IDS.shape[1]}
