"""Which weights are trained, and names that the decoder does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from dec2vec.errors import UserError
from tests.training_setup import tiny_encoder
from train.config import LoraConfig
from train.lora import trainable_parameters


def test_whole_modules_are_trained_beside_the_adapters(tmp_path: Path) -> None:
    lora, whole = (
        set(trainable_parameters(tiny_encoder(tmp_path, lora=LoraConfig(rank=4, whole=names)).embedder))
        for names in ((), ("embed_tokens",))
    )
    assert lora and all(".lora_" in name for name in lora)
    assert lora < whole and len(whole) == len(lora) + 1
    assert "embed_tokens.modules_to_save" in (whole - lora).pop()


@pytest.mark.parametrize("option", ["targets", "whole"])
@pytest.mark.parametrize(("name", "fix"), [("embed_tokenz", "did you mean embed_tokens"), ("xyzzy", "q_proj")])
def test_unknown_modules(tmp_path: Path, option: str, name: str, fix: str) -> None:
    with pytest.raises(UserError, match=f"lora.{option} '{name}': the decoder has no such module; .*{fix}"):
        tiny_encoder(tmp_path, lora=LoraConfig(rank=4, **{option: (name,)}))


def test_full_tuning_of_two_layers_trains_all_that_they_reach(tmp_path: Path) -> None:
    """first_last at layer 0 reads the first block's output too."""
    encoder = tiny_encoder(tmp_path, lora=LoraConfig(method="full"), pooling="first_last", layer=0)
    names = list(trainable_parameters(encoder.embedder))
    assert any(".layers.0." in name for name in names)
    assert not any(".layers.1." in name for name in names)
