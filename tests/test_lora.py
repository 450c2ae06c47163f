"""Which weights are trained, and names that the decoder does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.layers import decoder_blocks
from dec2vec.errors import UserError
from tests.helpers import FAMILIES
from tests.training_setup import tiny_encoder
from train.adapters.lora import trainable_parameters
from train.config import LoraConfig


def test_whole_modules_are_trained_beside_the_adapters(tmp_path: Path) -> None:
    lora, whole = (
        set(trainable_parameters(tiny_encoder(tmp_path, lora=LoraConfig(rank=4, modules_to_save=names)).embedder))
        for names in ((), ("embed_tokens",))
    )
    assert lora and all(".lora_" in name for name in lora)
    assert lora < whole and len(whole) == len(lora) + 1
    assert "embed_tokens.modules_to_save" in (whole - lora).pop()


def test_whole_modules_are_those_of_the_name(tmp_path: Path) -> None:
    """PEFT takes all whose names end so: `norm` is `input_layernorm` as well."""
    encoder = tiny_encoder(tmp_path, lora=LoraConfig(rank=4, modules_to_save=("norm",)))
    names = [name for name in trainable_parameters(encoder.embedder.backbone) if "lora_" not in name]
    assert names == ["base_model.model.norm.modules_to_save.default.weight"]


def test_checkpointing_of_a_family_without_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lora.gradient_checkpointing: not supported for ctrl; remove it"):
        tiny_encoder(tmp_path, "ctrl", lora=LoraConfig(rank=2, gradient_checkpointing=True))


@pytest.mark.parametrize("option", ["targets", "modules_to_save"])
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


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "opt_350m"])
@pytest.mark.parametrize("layer", [0, 2])
def test_full_tuning_of_an_inner_layer_trains_what_has_a_gradient(tmp_path: Path, family: str, layer: int) -> None:
    """Word embeddings of any name and what stands behind them, but nothing above; by autograd over all layers."""
    encoder = tiny_encoder(tmp_path, family, lora=LoraConfig(method="full"), layer=layer)
    whole = AutoModel.from_pretrained(tmp_path)
    states = whole(input_ids=torch.tensor([[5, 6, 7]]), output_hidden_states=True).hidden_states
    states[layer].sum().backward()
    reached = {name for name, parameter in whole.named_parameters() if parameter.grad is not None}
    assert set(trainable_parameters(encoder.embedder.backbone)) == reached
    assert 0 < len(reached) < len(list(whole.parameters()))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_in_chosen_blocks(tmp_path: Path, family: str) -> None:
    """By default in all that the pooled layer depends on; `layers` names others, also for a list of targets."""
    pooled = tiny_encoder(tmp_path, family, layer=2).embedder
    chosen = tiny_encoder(tmp_path, family, lora=LoraConfig(rank=4, layers=(0, 2))).embedder
    assert blocks_with_adapters(pooled) == {0, 1}
    assert blocks_with_adapters(chosen) == {0, 2}


def test_chosen_blocks_of_chosen_targets(tmp_path: Path) -> None:
    lora = LoraConfig(rank=4, layers=(1,), targets=("q_proj",), modules_to_save=("embed_tokens",))
    names = list(trainable_parameters(tiny_encoder(tmp_path, lora=lora).embedder))
    assert [name.split(".layers.")[1] for name in names if "lora_" in name] == [
        "1.self_attn.q_proj.lora_A.default.weight",
        "1.self_attn.q_proj.lora_B.default.weight",
    ]
    assert any("embed_tokens" in name for name in names)


def test_blocks_that_the_loss_does_not_reach(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lora.layers 2: layer 2 is pooled, so only blocks 0 to 1 can be trained"):
        tiny_encoder(tmp_path, lora=LoraConfig(layers=(1, 2)), layer=2)


def blocks_with_adapters(embedder: Embedder) -> set[int]:
    """Found by walking the decoder's own list of blocks."""
    blocks = decoder_blocks(embedder.backbone, embedder.layer_count)
    assert blocks is not None
    return {
        number for number, block in enumerate(blocks) if any("lora_" in name for name, _ in block.named_parameters())
    }
