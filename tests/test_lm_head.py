"""Last-token logits: those of the causal model, or nothing at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder import lm_head
from dec2vec.decoder.lm_head import load_lm_head
from dec2vec.decoder.pooling import View, layers_of
from tests.helpers import FAMILIES, LAYERS, tiny_config, tiny_model_folder, tiny_tokenizer
from train.config import ExportConfig, TrainConfig
from train.preflight import check_config

TEXTS = ["a man?", "the cat sat on the mat.", "", "a man?"]
VIEWS = [View("logits", -1), View("sparse_logits", -1), View("last", -1), View("logits", 1, norm=True)]
UNTIED = ("llama", "mistral", "qwen2", "qwen3", "phi", "gpt_neox")


def causal_folder(path: Path, family: str = "llama", **options: object) -> Path:
    """A whole causal model; the head's bias, where there is one, is not zero."""
    config = tiny_config(family)
    config.update(options)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def load(folder: Path, **options: object) -> Encoder:
    return Encoder.load(ModelConfig(name_or_path=str(folder), max_length=64, autocast="off", **options))


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_those_of_the_causal_model(tmp_path: Path, family: str) -> None:
    """Own and tied heads, with and without bias, and log(1 + relu) by numpy."""
    encoder = load(causal_folder(tmp_path, family))
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert encoder._head is None
    found = encoder.encode_views(TEXTS, VIEWS, EncodeOptions("prompteol"))
    for row, ids in enumerate(encoder.tokenize(TEXTS, prompt="prompteol")):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids])).logits[0, -1].numpy()
        np.testing.assert_allclose(found[VIEWS[0]][row], expected, rtol=1e-4, atol=1e-4)
        sparse = np.log1p(np.maximum(expected, 0))
        np.testing.assert_allclose(found[VIEWS[1]][row], sparse, rtol=1e-4, atol=1e-4)
    assert found[VIEWS[1]].min() == 0 < found[VIEWS[1]].max()
    assert np.abs(found[VIEWS[3]] - found[VIEWS[0]]).max() > 1e-2


def test_own_text_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 1, over slices of one row, budgets and order; an ensemble of logits is the mean of its members'."""
    encoder = load(causal_folder(tmp_path))
    alone = [encoder.encode_views([text], VIEWS) for text in TEXTS]
    monkeypatch.setattr(lm_head, "SLICE_BYTES", 1)
    for budget in (1, 100_000):
        together = encoder.encode_views(TEXTS[::-1], VIEWS, EncodeOptions(batch_tokens=budget))
        for view in VIEWS:
            expected = np.concatenate([vectors[view] for vectors in alone[::-1]])
            np.testing.assert_allclose(together[view], expected, rtol=0, atol=1e-5)
    assert all(len(rows) == 1 for rows, _ in encoder.iter_views(TEXTS, VIEWS))


@pytest.mark.parametrize("family", UNTIED)
def test_a_random_head_is_never_used(tmp_path: Path, family: str) -> None:
    """A base model's checkpoint, and an untied causal one whose head is lost: other views still work."""
    (tmp_path / "base").mkdir()
    base = load(tiny_model_folder(tmp_path / "base", family))
    lost = causal_folder(tmp_path / "lost", family) / "model.safetensors"
    save_file({key: value for key, value in load_file(lost).items() if "lm_head" not in key and "embed_out" not in key},
              lost, {"format": "pt"})  # fmt: skip
    for encoder in (base, load(tmp_path / "lost")):
        assert encoder.encode_views(TEXTS, [View("last", -1)])
        with pytest.raises(UserError, match="contain no LM head"):
            encoder.encode_views(TEXTS, VIEWS)


def test_tied_heads_need_no_causal_checkpoint(tmp_path: Path) -> None:
    """The input embeddings are in every checkpoint; read from files or taken from memory they are the same."""
    encoder = load(tiny_model_folder(tmp_path, "gpt2"))
    assert load_lm_head(encoder.config).weight.equal(encoder.lm_head().weight)
    assert encoder.lm_head().weight.equal(encoder.embedder.backbone.get_input_embeddings().weight)


def test_shards_and_old_names(tmp_path: Path) -> None:
    whole = load_lm_head(ModelConfig(name_or_path=str(causal_folder(tmp_path / "whole", "gpt_neox"))))
    file = tmp_path / "whole" / "model.safetensors"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    assert load_lm_head(ModelConfig(name_or_path=str(tmp_path / "shards"))).weight.equal(whole.weight)
    names = {"lm_head.weight": "embed_out.weight", "embed_out.weight": "embed_out.weight"}
    save_file({names.get(key, key): value for key, value in load_file(file).items()}, file, {"format": "pt"})
    assert load_lm_head(ModelConfig(name_or_path=str(tmp_path / "whole"))).weight.equal(whole.weight)


def test_memory_guard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load(causal_folder(tmp_path))
    monkeypatch.setattr(lm_head, "LOGITS_BYTES", 4 * len(encoder.lm_head().weight) * 3)
    with pytest.raises(UserError, match=r"logits of 4 texts: .* use fewer texts"):
        encoder.encode_views(TEXTS, VIEWS[:1])
    assert encoder.encode_views(TEXTS[:3], VIEWS[:1])[VIEWS[0]].shape == (3, len(encoder.lm_head().weight))
    assert len(list(encoder.iter_views(TEXTS, VIEWS))) > 0
    assert encoder.encode_views(TEXTS, [View("last", -1)])


def test_configured_pooling_and_what_it_can_not_do(tmp_path: Path) -> None:
    encoder = load(causal_folder(tmp_path), pooling="sparse_logits")
    assert encoder.encode(TEXTS).shape == (4, len(tiny_tokenizer()))
    with pytest.raises(UserError, match=r"the LM head needs states after the final norm"):
        layers_of(View("logits", 1), LAYERS)
    with pytest.raises(UserError, match=r"model.pooling logits is only for encoding and evaluation"):
        check_config(TrainConfig(model=ModelConfig(pooling="logits"), export=ExportConfig(model=False)))
