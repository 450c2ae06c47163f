"""The options of a model mean the same in every verb, and their defaults fit the decoder."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

from dec2vec.checks.check import CheckArgs
from dec2vec.config.encoder_args import ModelArgs
from dec2vec.config.model import ModelConfig
from dec2vec.corpus.dedup import DedupArgs
from dec2vec.corpus.encode import EncodeArgs
from dec2vec.corpus.outliers import OutliersArgs
from dec2vec.corpus.search import SearchArgs
from dec2vec.decoder.positions import known_max_length
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from eval.score.score import ScoreArgs
from tests.export_cases import PEFT_WARNING, finished_run
from tests.helpers import tiny_model_folder
from train.adapters.lora import make_trainable, trainable_parameters
from train.config import LoraConfig, TrainConfig
from train.mining.mine import MineArgs
from train.resolve import resolve

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
VERBS = (EncodeArgs, ScoreArgs, MineArgs, SearchArgs, DedupArgs, OutliersArgs, CheckArgs)


def config(folder: Path, **options: object) -> ModelConfig:
    return ModelConfig(**{"name_or_path": str(folder), "device": "cpu", "autocast": "off", **options})


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_the_options_of_training(verb: type[ModelArgs]) -> None:
    assert issubclass(verb, ModelArgs)
    own = {field.name for field in dataclasses.fields(verb)}
    shared = {"revision", "dtype", "autocast", "attention", "max_length"}
    assert {"device", "trust_remote_code", *shared} <= own
    assert not shared & vars(verb).get("__annotations__", {}).keys()


@pytest.mark.parametrize(("family", "attention"), [("gemma2", "eager"), ("gptj", "eager"), ("llama", "sdpa")])
def test_attention_is_what_the_family_has(family: str, attention: str, tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path, family)
    backbone = Encoder.load(config(folder)).embedder.backbone
    assert backbone.config._attn_implementation == attention  # type: ignore[union-attr]
    chosen = Encoder.load(config(folder, attention="eager")).embedder.backbone
    assert chosen.config._attn_implementation == "eager"  # type: ignore[union-attr]


def test_options_of_a_verb_replace_those_of_a_tuned_folder(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    saved = Encoder.load(config(run))
    assert (saved.config.dtype, saved.max_length, saved.config.attention) == ("float32", 160, "sdpa")
    args = CheckArgs(model=str(run), device="cpu", dtype="bfloat16", max_length=40, attention="eager")
    changed = Encoder.load(args.model_config(args.model), args.changes)
    backbone = changed.embedder.backbone.get_base_model()  # type: ignore[operator]
    assert str(backbone.dtype) == "torch.bfloat16" and backbone.config._attn_implementation == "eager"
    assert saved.embedder.autocast is None
    turned_on = Encoder.load(config(run), CheckArgs(model=str(run), autocast="on").changes)
    assert turned_on.embedder.autocast == torch.bfloat16
    assert changed.max_length == 40 == len(changed.tokenize(["many words " * 60])[0])
    with pytest.raises(UserError, match=r"max_length 257: the model has 256 positions"):
        Encoder.load(config(run), {"max_length": 257})


def test_the_default_length_is_the_smaller_of_512_and_the_positions(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "gpt2", "gpt2")  # 256 learned positions: a longer text would be an error
    encoder = Encoder.load(config(folder))
    assert encoder.max_length == encoder.config.max_length == 256
    assert len(encoder.tokenize(["many words " * 200])[0]) == 256
    assert encoder.encode(["many words " * 200], progress=False).shape == (1, 16)
    with pytest.raises(UserError, match="max_length 512: the model has 256 positions; set it to 256 or less"):
        Encoder.load(config(folder, max_length=512))
    bloom = tiny_model_folder(tmp_path / "bloom", "bloom")  # relative positions: nothing limits it
    assert Encoder.load(config(bloom)).max_length == 512


def test_the_default_length_is_resolved_before_a_run(tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path / "base")
    assert resolve(TrainConfig(model=config(folder))).model.max_length == 256
    assert resolve(TrainConfig(model=config(folder, max_length=77))).model.max_length == 77
    assert known_max_length(config(finished_run(tmp_path))) == 256
    assert known_max_length(config(tmp_path / "absent")) is None  # refused where the model is loaded


@pytest.mark.parametrize(
    ("family", "left_out"),
    [("mamba", "out_proj, conv1d, dt_proj"), ("mamba2", "out_proj, conv1d")],
)
def test_all_linear_leaves_out_what_the_decoder_does_not_call_everywhere(
    family: str, left_out: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = Encoder.load(config(tiny_model_folder(tmp_path, family), layer=2, max_length=64))
    with caplog.at_level(logging.INFO):
        make_trainable(encoder.embedder, LoraConfig(rank=2))
    assert f"all-linear: {left_out} get no adapters" in caplog.text
    encoder.embedder(torch.tensor([[5, 6, 7]]), torch.tensor([3]))[0].sum().backward()
    trained = trainable_parameters(encoder.embedder)
    assert not any(f".{name}." in path for path in trained for name in left_out.split(", "))
    matrices = {path: parameter.grad for path, parameter in trained.items() if "lora_B" in path}
    assert matrices and not any(".layers.2." in path for path in matrices)
    assert all(gradient is not None and gradient.any() for gradient in matrices.values())
