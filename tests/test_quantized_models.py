"""Quantized folders are read as the floats that they stand for, trained, and exported as plain models."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AutoModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from dec2vec.checks.check_model import check_model
from dec2vec.config.model import ModelConfig
from dec2vec.decoder import quantized
from dec2vec.decoder.quantized import dequantized
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from tests.export_cases import PEFT_WARNING, TEXTS, tuned_encoder
from tests.helpers import tiny_model_folder, tiny_tokenizer
from tests.quantized_folders import Quantized, as_one, by_row, in_blocks, in_groups_of_integers, quantize_folder
from tests.tiny_run import train, write_run
from train.config import ExportConfig, OptimConfig, TrainConfig
from train.export.save import save_adapter
from train.export.staging import export_model

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [12, 10]}
BLOCKS = partial(in_blocks, height=12, width=10)
GROUPS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "group_size": 5}}}
KINDS: dict[str, tuple[Callable[[Tensor], Quantized], dict[str, Any] | None]] = {
    "blocks that do not divide": (BLOCKS, FP8),
    "no entry in config.json": (partial(in_blocks, height=128, width=128), None),
    "one scale": (as_one, {"quant_method": "fp8", "weight_block_size": None}),
    "a scale for each row": (by_row, {"quant_method": "fbgemm_fp8"}),
    "compressed-tensors, FP8": (by_row, {"quant_method": "compressed-tensors", "format": "float-quantized"}),
    "compressed-tensors, INT8": (
        in_groups_of_integers,
        {"quant_method": "compressed-tensors", "config_groups": GROUPS},
    ),
    "exponents": (
        partial(in_blocks, height=1, width=8, powers=True),
        {"quant_method": "mxfp8", "weight_block_size": [1, 8]},
    ),
}


def load(folder: Path, **options: Any) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(folder), max_length=32, device="cpu", autocast="off", **options))


def vectors(folder: Path, **options: Any) -> np.ndarray:
    return load(folder, **options).encode(TEXTS, progress=False)


def fp8_folder(tmp_path: Path, **options: Any) -> tuple[Path, Path]:
    """A folder in blocks, and the plain one that it stands for."""
    plain = tiny_model_folder(tmp_path / "plain")
    return quantize_folder(plain, tmp_path / "fp8", BLOCKS, FP8, **options), plain


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_the_plain_weights(kind: str, tmp_path: Path) -> None:
    plain = tiny_model_folder(tmp_path / "plain")
    unquantized = vectors(plain)
    folder = quantize_folder(plain, tmp_path / "quantized", *KINDS[kind], dtype=torch.float16)
    expected = vectors(plain)
    assert np.abs(expected - unquantized).max() > 1e-4  # the quantization is seen in the vectors
    assert np.abs(vectors(folder) - expected).max() < 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_shards_in_any_dtype(dtype: str, tmp_path: Path) -> None:
    folder, plain = fp8_folder(tmp_path, dtype=torch.bfloat16, shards=3)
    found, expected = load(folder, dtype=dtype), load(plain, dtype=dtype)
    weights = dict(expected.embedder.backbone.named_parameters())
    for name, parameter in found.embedder.backbone.named_parameters():
        assert parameter.dtype == getattr(torch, dtype)
        assert torch.equal(parameter, weights[name]), name


@pytest.mark.parametrize("full", [False, True], ids=["merged", "full"])
def test_an_export_is_a_plain_model(full: bool, tmp_path: Path) -> None:
    """transformers would quantize it again when it saves, embeddings and norms included."""
    folder, _ = fp8_folder(tmp_path, dtype=torch.float16)
    encoder = tuned_encoder(folder, full=full, dtype="bfloat16")
    run = tmp_path / "run"
    save_adapter(encoder, run / "adapter")
    exported = export_model(run, TrainConfig(model=encoder.config), encoder, run / "model", merge=False)
    config = json.loads((exported / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(exported / "model.safetensors").values()} == {torch.bfloat16}

    library = SentenceTransformer(str(exported), device="cpu").encode(TEXTS, prompt_name="query")
    again = Encoder.load(ModelConfig(name_or_path=str(exported), device="cpu")).encode(TEXTS, progress=False)
    assert np.abs(library - again).max() < 1e-2
    assert [
        finding for finding in check_model(ModelConfig(name_or_path=str(exported))) if finding.verdict == "fail"
    ] == []


def test_merged_float32_equals_sentence_transformers(tmp_path: Path) -> None:
    folder, _ = fp8_folder(tmp_path)
    encoder = tuned_encoder(folder)
    expected = encoder.encode(TEXTS, progress=False)
    run = tmp_path / "run"
    save_adapter(encoder, run / "adapter")
    exported = export_model(run, TrainConfig(model=encoder.config), encoder, run / "model", merge=False)
    library = SentenceTransformer(str(exported), device="cpu").encode(TEXTS, prompt_name="query")
    assert np.abs(library - expected).max() < 1e-5
    tuned = Encoder.load(ModelConfig(name_or_path=str(run), device="cpu"))
    assert np.abs(tuned.encode(TEXTS, progress=False) - expected).max() < 1e-6
    assert [finding for finding in check_model(ModelConfig(name_or_path=str(run))) if finding.verdict == "fail"] == []


def test_a_run_over_shared_weights_is_refused_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a quantized base the adapter is merged anyway, which Zamba's shared attention does not allow."""
    monkeypatch.chdir(tmp_path)
    plain = tiny_model_folder(tmp_path / "plain", "zamba")
    folder = quantize_folder(plain, tmp_path / "fp8", BLOCKS, FP8)
    model = ModelConfig(name_or_path=str(folder), max_length=32, device="cpu", autocast="off")
    path = write_run(tmp_path, model=model, optim=OptimConfig(steps=1), export=ExportConfig(merge=False))
    with pytest.raises(UserError, match=r"merge: layers.1.*q_proj and layers.2.*q_proj share one weight"):
        train(path, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_experts_in_mxfp4(tmp_path: Path) -> None:
    """The truth is transformers' own reading of the blocks, as plain weights."""
    torch.manual_seed(0)
    model = AutoModel.from_config(gpt_oss())
    tiny_tokenizer().save_pretrained(tmp_path / "mxfp4")
    tiny_tokenizer().save_pretrained(tmp_path / "plain")
    packed: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(("gate_up_proj", "down_proj")):
                packed[name] = parameter.detach()
                continue
            experts, columns, rows = parameter.shape
            blocks = torch.randint(256, (experts, rows, columns // 32, 16), dtype=torch.uint8)
            scales = torch.randint(123, 127, (experts, rows, columns // 32), dtype=torch.uint8)
            parameter.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    model.save_pretrained(tmp_path / "plain")
    model.config.quantization_config = {"quant_method": "mxfp4"}
    model.config.save_pretrained(tmp_path / "mxfp4")
    save_file(packed, tmp_path / "mxfp4" / "model.safetensors", {"format": "pt"})
    assert np.abs(vectors(tmp_path / "mxfp4") - vectors(tmp_path / "plain")).max() < 1e-6


def gpt_oss() -> Any:
    from tests.further_families import further_config

    shared = {"vocab_size": len(tiny_tokenizer()), "num_hidden_layers": 2, "num_attention_heads": 4}
    config = further_config("gpt_oss", {**shared, "pad_token_id": 1})
    return type(config)(**{**config.to_dict(), "hidden_size": 32, "intermediate_size": 32})


def test_scales_that_fit_no_blocks_are_refused(tmp_path: Path) -> None:
    folder, _ = fp8_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["weight_block_size"] = [64, 64]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        UserError, match=r"mlp.gate_proj.weight: its 3x2 scales fit no blocks of a matrix of 32x16; correct weight"
    ):
        load(folder)


def test_a_weight_without_its_scales_is_refused(tmp_path: Path) -> None:
    folder, _ = fp8_folder(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight_scale_inv"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"layers.1.mlp.up_proj.weight is in 8 bits without a scale"):
        load(folder)


@pytest.mark.parametrize("promised", [True, False])
def test_float8_without_any_scale_is_refused_where_config_json_has_them(promised: bool, tmp_path: Path) -> None:
    folder, _ = fp8_folder(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    bare = {name: tensor for name, tensor in tensors.items() if not name.endswith(("_scale_inv", "_scale"))}
    save_file(bare, folder / "model.safetensors", {"format": "pt"})
    if not promised:  # plain weights in float8
        config = json.loads((folder / "config.json").read_text())
        del config["quantization_config"]
        (folder / "config.json").write_text(json.dumps(config))
        assert load(folder).embedder.backbone.get_parameter("layers.0.mlp.up_proj.weight").dtype == torch.float32
        return
    with pytest.raises(UserError, match=r"proj.weight is in 8 bits without a scale, but the weights of this model"):
        load(folder)


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        (
            {"quant_method": "gptq", "bits": 4},
            r"\(gptq\), and optimum and gptqmodel are not .*pip install optimum gptqmodel",
        ),
        ({"quant_method": "awq", "bits": 4}, r"\(awq\), and gptqmodel is not installed; pip install gptqmodel"),
        ({"quant_method": "exl2"}, r"\(exl2\) in a way that can't be read; use the model's unquantized"),
    ],
)
def test_other_kinds_name_their_package(
    quantization: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "_has", lambda module: False)
    folder = tiny_model_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    with pytest.raises(UserError, match=words):
        load(folder)


class Packed(nn.Module):
    """A layer with a matrix in 8 bits, as packages of quantized layers have them, in their own way."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.abs().max() / 127
        self.register_buffer("qweight", (layer.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = layer.bias

    def forward(self, states: Tensor) -> Tensor:
        assert isinstance(self.qweight, Tensor)
        assert isinstance(self.scale, Tensor)
        return nn.functional.linear(states, self.qweight.to(states.dtype) * self.scale, self.bias)


class PackedHalf(Packed):
    """The same with a kernel that knows float16 only."""

    def forward(self, states: Tensor) -> Tensor:
        if states.dtype != torch.float16:
            raise RuntimeError("expected float16")
        assert isinstance(self.qweight, Tensor)
        assert isinstance(self.scale, Tensor)
        return nn.functional.linear(states, self.qweight.half() * self.scale.half(), self.bias.half())


@pytest.mark.parametrize("kernel", [Packed, PackedHalf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_large_bias_leaves_the_matrix_exact(kernel: type[Packed], dtype: str, tmp_path: Path) -> None:
    encoder = load(tiny_model_folder(tmp_path, "qwen2"), dtype=dtype)
    model: Any = encoder.embedder.backbone
    with torch.no_grad():
        model.layers[0].self_attn.q_proj.bias.fill_(50.1)
        packed = kernel(model.layers[0].self_attn.q_proj.requires_grad_(False))
    model.layers[0].self_attn.q_proj, bias = packed, packed.bias.clone()
    plain = dequantized(model, encoder.config, getattr(torch, dtype)).get_submodule("layers.0.self_attn.q_proj")
    assert isinstance(packed.qweight, Tensor) and isinstance(packed.scale, Tensor)
    expected = packed.qweight.double() * packed.scale.double()
    assert torch.equal(plain.get_parameter("bias"), bias) and torch.equal(packed.bias, bias)
    apart = plain.get_parameter("weight").detach().double() - expected.detach()
    assert float(apart.abs().max() / expected.detach().abs().max()) < 2**-8


def test_layers_of_a_package_become_plain(tmp_path: Path) -> None:
    encoder = load(tiny_model_folder(tmp_path, "qwen2"))
    model: Any = encoder.embedder.backbone
    with torch.no_grad():
        for block in model.layers:
            block.self_attn.q_proj = Packed(block.self_attn.q_proj.requires_grad_(False))
            block.mlp.down_proj = Packed(block.mlp.down_proj.requires_grad_(False))
    model.config.quantization_config = {"quant_method": "quanto"}
    expected = encoder.encode(TEXTS, progress=False)
    encoder.embedder.backbone = dequantized(model, encoder.config, torch.float32)
    assert {type(block.mlp.down_proj) for block in model.layers} == {nn.Linear}
    assert not hasattr(encoder.embedder.backbone.config, "quantization_config")
    assert np.abs(encoder.encode(TEXTS, progress=False) - expected).max() < 1e-6
    model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.ones(3, 3))
    with pytest.raises(UserError, match=r"layers.0.mlp.up_proj.weight can't be turned into a plain weight"):
        dequantized(model, encoder.config, torch.float32)
