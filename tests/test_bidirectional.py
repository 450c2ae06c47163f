"""Attention in both directions equals attention written out by hand, in every family, alone and in a padded batch."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, MistralConfig

from dec2vec import Encoder, ModelConfig
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from tests.helpers import FAMILIES, tiny_config, tiny_model_folder, tiny_tokenizer
from tests.tiny_run import train, write_run
from tests.training_setup import distance, gradients, tiny_encoder
from train.config import LoraConfig
from train.export.save import save_adapter, save_sentence_transformer

TEXTS = ["a man is riding a horse", "the cat sat", "a", "the cat sat on the mat."]
VIEWS = [View(pooling, layer) for pooling in ("last", "mean", "weighted_mean", "max") for layer in (0, 2, -1)]


def load(folder: Path, **options: object) -> Encoder:
    wanted = {"name_or_path": str(folder), "max_length": 64, "autocast": "off", "bidirectional": True, **options}
    return Encoder.load(ModelConfig(**wanted))


def plain_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Every token sees every token, whatever the caller says."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return torch.softmax(query @ key.transpose(-1, -2) * scale, dim=-1) @ value


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_attention_written_out(
    family: str, attention: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts one by one, without any mask or position, through a kernel that knows no direction."""
    tiny_model_folder(tmp_path, family)
    found = load(tmp_path, attention=attention).encode_views(TEXTS, VIEWS)
    causal = load(tmp_path, bidirectional=False, attention=attention)
    differs = causal.encode_views(TEXTS, VIEWS)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", plain_attention)
    by_hand = load_without_checks(tmp_path)
    for row, text in enumerate(TEXTS):
        expected = by_hand.encode_views([text], VIEWS)
        for view in VIEWS:
            np.testing.assert_allclose(found[view][row], expected[view][0], rtol=0, atol=1e-5)
    view = View("mean", -1)
    assert np.abs(found[view] - differs[view]).max() > 1e-2


def load_without_checks(folder: Path) -> Encoder:
    """A plain decoder: what would refuse one that is not causal runs before attention is replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dec2vec.decoder.load._check_attention", lambda *_: None)
        return load(folder, bidirectional=False)


def test_a_prompt_is_not_shared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its states depend on the text that follows."""
    encoder = load(tiny_model_folder(tmp_path), max_length=160)
    with caplog.at_level(logging.INFO, "dec2vec.inference"):
        together = encoder.encode(TEXTS, prompt="knowledge_enhancement")
    assert "recomputed for each text" in caplog.text
    alone = np.concatenate([encoder.encode([text], prompt="knowledge_enhancement") for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lora", [LoraConfig(rank=4), LoraConfig(rank=4, gradient_checkpointing=True)])
def test_gradients_of_a_batch_are_those_of_its_texts(lora: LoraConfig, tmp_path: Path) -> None:
    """Of the last token at the last block, which runs narrow in causal decoders; shuffled tokens as control."""
    embedder = tiny_encoder(tmp_path, lora=lora, bidirectional=True).embedder
    embedder.train()
    rows = [[5, 6, 7, 8, 9], [9, 10], [11]]
    padded = torch.tensor([row + [1] * (5 - len(row)) for row in rows])
    weights, lengths = torch.linspace(-1.0, 2.0, 16), torch.tensor([5, 2, 1])
    (embedder(padded, lengths)[0] @ weights).sum().backward()
    together = gradients(embedder)
    for row in rows:
        (embedder(torch.tensor([row]), torch.tensor([len(row)]))[0] @ weights).sum().backward()
    alone = gradients(embedder)
    assert distance(together, alone) < 1e-5
    (embedder(padded.flip(1), lengths)[0] @ weights).sum().backward()
    assert distance(gradients(embedder), alone) > 1e-2


def test_a_whole_run_and_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    turned = ("--model.bidirectional", "true", "--optim.steps", "3")
    with pytest.raises(UserError, match=r"model.bidirectional: sentence-transformers .*export.model false"):
        train(config, tmp_path / "out", *turned)
    train(config, tmp_path / "out", *turned, "--export.model", "false")
    tuned = Encoder.load(ModelConfig(name_or_path=str(tmp_path / "out"), device="cpu"))
    assert tuned.config.bidirectional
    ids = torch.tensor([[5, 6, 7], [5, 6, 8]])
    first = tuned.embedder(ids, torch.tensor([3, 3]), [View("mean", -1)])[0]
    assert (first[0] - first[1]).abs().max() > 1e-4


def test_a_whole_model_says_that_it_was_turned(tmp_path: Path) -> None:
    lora = LoraConfig(method="full")
    encoder = tiny_encoder(tiny_model_folder(tmp_path / "base"), lora=lora, bidirectional=True)
    expected = encoder.encode(TEXTS)
    model = save_adapter(encoder, tmp_path / "run" / "adapter")
    np.testing.assert_allclose(load(tmp_path / "run").encode(TEXTS), expected, rtol=0, atol=1e-6)
    (model / "dec2vec.json").unlink()
    with pytest.raises(UserError, match=r"tuned with bidirectional attention; add model.bidirectional true"):
        load(model, bidirectional=False)
    with pytest.raises(UserError, match=r"export.model false"):
        save_sentence_transformer(encoder, tmp_path / "st", True, None)


def test_windows_do_not_narrow_it(tmp_path: Path) -> None:
    config = tiny_config("mistral")
    assert isinstance(config, MistralConfig)
    found = []
    for window in (2, None):
        config.sliding_window = window
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(tmp_path / str(window))
        tiny_tokenizer().save_pretrained(tmp_path / str(window))
        found.append(load(tmp_path / str(window)).encode(TEXTS))
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-6)


def test_other_families_and_kernels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_model_folder(tmp_path)
    monkeypatch.setattr("dec2vec.decoder.bidirectional.FAMILIES", frozenset({"qwen2"}))
    with pytest.raises(UserError, match=r"model.bidirectional is not supported for llama; remove it"):
        load(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr("dec2vec.decoder.load._check_kernels", lambda *_: None)
    with pytest.raises(UserError, match=r"model.bidirectional: flash_attention_2 does not support bidirectional masks"):
        load(tmp_path, attention="flash_attention_2")
