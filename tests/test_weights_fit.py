"""Weights that config.json has no place for, and missing ones, are refused; heads and old buffers are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from dec2vec.checks.check_model import check_model
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.library_calls import quiet
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from tests.helpers import tiny_config, tiny_model_folder, tiny_tokenizer

AS_LLAMA = {"model_type": "llama", "architectures": ["LlamaModel"]}


def edited(folder: Path, **changes: object) -> Path:
    """The folder with a changed config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def with_weights(folder: Path, **added: Tensor) -> Path:
    """The folder with more weights in its file, or without those that are given as empty."""
    file = folder / "model.safetensors"
    tensors = {**load_file(file), **{name.replace("__", "."): tensor for name, tensor in added.items()}}
    save_file({name: tensor for name, tensor in tensors.items() if tensor.numel()}, file, {"format": "pt"})
    return folder


def random_model(folder: Path, family: str, **options: Any) -> Path:
    """A tiny model in which biases are as large as matrices."""
    torch.manual_seed(0)
    config = tiny_config(family)
    model = AutoModel.from_config(type(config)(**{**config.to_dict(), **options}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.25)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def load(folder: Path, **options: Any) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(folder), max_length=32, device="cpu", **options))


def states(folder: Path) -> Tensor:
    """Hidden states of plain transformers."""
    with quiet(), torch.no_grad():
        found: Tensor = AutoModel.from_pretrained(folder)(input_ids=torch.tensor([[5, 6, 7, 8]])).last_hidden_state
    return found


BIASED = {"attention_bias": True}
MISTAKES: dict[str, tuple[str, dict[str, object], dict[str, object], str]] = {
    "biases lost": ("llama", BIASED, {"attention_bias": False}, "12 weights.*k_proj.bias.*set attention_bias"),
    "Qwen 2 as Llama": ("qwen2", {}, AS_LLAMA, "9 weights.*k_proj.bias.*model_type .now llama"),
    "Qwen 3 as Llama": ("qwen3", {}, AS_LLAMA, "6 weights.*k_norm.weight.*config.json that belongs"),
    "a block too few": ("llama", {}, {"num_hidden_layers": 2}, r"layers\.2\..*correct num_hidden_layers .now 2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_config_without_places_is_refused(mistake: str, tmp_path: Path) -> None:
    family, options, changes, words = MISTAKES[mistake]
    right = random_model(tmp_path / "model", family, **options)
    expected = states(right)
    load(right)
    wrong = edited(right, **changes)
    assert not torch.allclose(states(wrong), expected, atol=0.01)  # transformers reads it, and is wrong
    with pytest.raises(UserError, match=words):
        load(wrong)
    (finding,) = [
        row for row in check_model(ModelConfig(name_or_path=str(wrong), max_length=64)) if row.check == "loads"
    ]
    assert finding.verdict == "fail" and "config.json has no place for" in finding.what


def test_missing_weights_are_refused_with_their_number(tmp_path: Path) -> None:
    folder = with_weights(tiny_model_folder(tmp_path), norm__weight=torch.empty(0))
    with pytest.raises(UserError, match=r"1 weights are missing from its files \(norm.weight\); use a complete"):
        load(folder)


def test_one_block_more_than_the_files_have(tmp_path: Path) -> None:
    folder = edited(tiny_model_folder(tmp_path), num_hidden_layers=4)
    with pytest.raises(UserError, match=r"9 weights are missing from its files \(layers.3"):
        load(folder)


EXTRA = {
    "a head": "lm_head.weight",
    "RWKV's head": "head.weight",
    "a classifier": "score.weight",
    "angles of old Llamas": "layers.0.self_attn.rotary_emb.inv_freq",
    "a mask of old GPT-NeoX": "layers.1.attention.masked_bias",
    "GPT-2's mask": "layers.0.attn.bias",
}


@pytest.mark.parametrize("extra", EXTRA)
def test_heads_and_old_buffers_are_left_out(extra: str, tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path)
    expected = load(folder).encode(["a man"], progress=False)
    with_weights(folder, **{EXTRA[extra].replace(".", "__"): torch.ones(3)})
    assert (load(folder).encode(["a man"], progress=False) == expected).all()


def test_cut_blocks_have_no_place(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path)
    assert load(folder, depth=2).layer_count == 2
    with_weights(folder, layers__0__self_attn__q_proj__bias=torch.ones(16))
    with pytest.raises(UserError, match="1 weights"):
        load(folder, depth=2)
