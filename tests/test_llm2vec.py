"""LLM2Vec's layouts: what it merged is read in both directions, and what is only an adapter is named as that."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from dec2vec import Encoder, ModelConfig
from dec2vec.decoder.library_calls import quiet
from dec2vec.decoder.load import untuned_reading
from dec2vec.errors import UserError
from tests.export_cases import PEFT_WARNING
from tests.helpers import graded_pairs, tiny_model_folder, tiny_tokenizer, write_jsonl
from tests.test_bidirectional import plain_attention
from tests.tiny_run import train, write_run
from train.config import EvalSection

pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)
TEXTS = ["a man is riding a horse", "the cat"]
SETTINGS = {"pooling_mode": "mean", "max_length": 512, "doc_max_length": 400, "skip_instruction": True}


def turn(folder: Path, name: str = "LlamaBiModel", *, settings: bool = True) -> Path:
    """Mark a folder as LLM2Vec's own `save` and its repositories on the Hub do."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    remote = {"AutoModel": "modeling_llama_encoder.LlamaEncoderModel"}
    config |= {"architectures": [name]} | ({} if settings else {"auto_map": remote})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if settings:
        (folder / "llm2vec_config.json").write_text(json.dumps(SETTINGS, indent=4), encoding="utf-8")
    return folder


def adapter(folder: Path, *, beside_weights: bool) -> Path:
    """An adapter as LLM2Vec publishes it, with config.json; perhaps with what it was merged into."""
    base = tiny_model_folder(folder / "base")
    with quiet():
        model = get_peft_model(AutoModel.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    torch.nn.init.normal_(next(value for name, value in model.named_parameters() if "lora_B" in name))
    target = folder / "published"
    model.save_pretrained(target)
    merged = model.merge_and_unload()
    merged.save_pretrained(folder / "merged")
    merged.config.save_pretrained(target)
    for place in (target, folder / "merged"):
        tiny_tokenizer().save_pretrained(place)
    if beside_weights:
        (target / "model.safetensors").write_bytes((folder / "merged" / "model.safetensors").read_bytes())
    return turn(target, "LlamaEncoderModel", settings=False)


def load(folder: Path, **options: object) -> Encoder:
    return Encoder.load(ModelConfig(**{"name_or_path": str(folder), "max_length": 64, "device": "cpu", **options}))


@pytest.mark.parametrize("name", ["LlamaBiModel", "LlamaEncoderModel", "LlamaBiForMNTP"])
def test_merged_weights_are_not_read_as_a_causal_decoder(name: str, tmp_path: Path) -> None:
    folder = turn(tiny_model_folder(tmp_path), name)
    with pytest.raises(UserError, match=f"was LLM2Vec's {name}, tuned with bidirectional .* add model.bidirectional"):
        load(folder)


def test_merged_weights_are_read_in_both_directions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the decoder of transformers with attention written out; and it is said that LLM2Vec pools otherwise."""
    folder = turn(tiny_model_folder(tmp_path))
    with caplog.at_level(logging.WARNING):
        encoder = load(folder, bidirectional=True, pooling="mean", autocast="off")
    assert 'LLM2Vec reads it by { "pooling_mode": "mean", "max_length": 512' in caplog.text
    assert "without EOS; dec2vec reads it by its own prompt, pooling and EOS" in caplog.text
    found, ids = encoder.encode(TEXTS, progress=False), encoder.tokenize(TEXTS)
    with quiet(), torch.no_grad():
        plain = AutoModel.from_pretrained(folder)
        causal = plain(input_ids=torch.tensor([ids[0]])).last_hidden_state[0].mean(0)
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", plain_attention)
        truth = [plain(input_ids=torch.tensor([row])).last_hidden_state[0].mean(0) for row in ids]
    for row, vector in enumerate(truth):
        np.testing.assert_allclose(found[row], torch.nn.functional.normalize(vector, dim=0), atol=1e-5)
    assert np.abs(found[0] - torch.nn.functional.normalize(causal, dim=0).numpy()).max() > 0.01


def test_adapter_files_beside_merged_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = adapter(tmp_path, beside_weights=True)
    with caplog.at_level(logging.WARNING):
        found = load(folder, bidirectional=True).encode(TEXTS, progress=False)
    assert "the weights are read alone, without the adapter beside them" in caplog.text
    expected = load(tmp_path / "merged", bidirectional=True).encode(TEXTS, progress=False)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_adapter_alone_is_named(bidirectional: bool, tmp_path: Path) -> None:
    folder = adapter(tmp_path, beside_weights=False)
    refused = f"an adapter of LLM2Vec of {tmp_path / 'base'} and not a model; merge .*model.bidirectional true"
    with pytest.raises(UserError, match=refused):
        load(folder, bidirectional=bidirectional)


def test_the_untuned_reading_of_such_a_base_sees_both_directions(tmp_path: Path) -> None:
    """Of a base that was causal, it is causal and whole."""
    turned = ModelConfig(name_or_path=str(turn(tiny_model_folder(tmp_path / "turned"))), bidirectional=True, depth=2)
    plain = ModelConfig(name_or_path=str(tiny_model_folder(tmp_path / "plain")), bidirectional=True, depth=2)
    assert untuned_reading(turned) == replace(turned, depth=None, tokenization="joint")
    assert untuned_reading(plain) == replace(plain, depth=None, tokenization="joint", bidirectional=False)


@pytest.mark.slow
def test_a_run_from_such_a_base_gets_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModelConfig(name_or_path=str(turn(tiny_model_folder(tmp_path / "turned"))), bidirectional=True)
    evaluation = EvalSection(dev="dev.jsonl", tests=("test.jsonl",), whitening_sentences=20)
    run = write_run(tmp_path / "work", model=model, eval=evaluation)
    write_jsonl(tmp_path / "work" / "test.jsonl", graded_pairs(12, seed=5))
    monkeypatch.chdir(tmp_path / "work")
    train(run, tmp_path / "out", "--optim.steps", "2", "--export.model", "false", "--model.max_length", "160")
    assert (tmp_path / "out" / "report" / "report.json").is_file()
