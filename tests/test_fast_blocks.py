"""Blocks whose passes are written by hand give the loss and every gradient of the decoder's own blocks with PEFT's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import MistralConfig

from dec2vec.decoder.layers import decoder_blocks, final_norm
from dec2vec.encoder import Encoder
from tests.helpers import tiny_model_folder
from tests.test_gradcache import close
from tests.test_prefix_gradient import PROMPT, step
from tests.training_setup import tiny_encoder
from train.config import LoraConfig
from train.kernels.decoder_block import FastBlock
from train.step import seed_dropout

FAST = {"llama", "mistral", "qwen2", "qwen3"}
FURTHER = [(family, {"prompt": PROMPT, "max_length": 100}) for family in ("mistral", "phi", "gpt_neox", "opt")]
FURTHER += [("llama", {}), ("qwen2", {})]


def encoder_of(folder: Path, family: str = "llama", *, fast: bool, lora: dict[str, object], **model: object) -> Encoder:
    """With weights of the norms that are not all one, as they are in new models."""
    encoder = tiny_encoder(folder, family, lora=LoraConfig(**{"rank": 4, "alpha": 4.0, "fused": fast, **lora}), **model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in encoder.embedder.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter += 0.3 * torch.rand(parameter.shape, generator=generator).to(parameter.device)
    encoder.embedder.train()
    return encoder


def ran(encoder: Encoder) -> bool:
    """Whether blocks went the fast way."""
    blocks = decoder_blocks(encoder.embedder.backbone, encoder.layer_count) or ()
    return any(isinstance(block, FastBlock) and bool(block.memory) for block in blocks)


@pytest.mark.parametrize(
    ("family", "model"),
    [(family, {"prompt": PROMPT, "max_length": 100}) for family in ("llama", "qwen2", "qwen3", "gemma", "gpt2")]
    + [(family, {}) for family in ("mistral", "qwen3")]
    + [pytest.param(*further, marks=pytest.mark.slow) for further in FURTHER]
    + [("qwen3", {"pooling": "mean", "layer": 2})],
)
def test_equals_the_plain_blocks(tmp_path: Path, family: str, model: dict[str, object]) -> None:
    plain, fast = (encoder_of(tmp_path, family, fast=fast, lora={}, **model) for fast in (False, True))
    loss, expected, _ = step(plain, share="prompt" in model)
    found_loss, found, _ = step(fast, share="prompt" in model)
    assert ran(fast) == (family in FAST) and not ran(plain)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert close(found, expected)


@pytest.mark.parametrize(
    ("lora", "way"),
    [
        ({"targets": ("q_proj", "down_proj")}, True),
        ({"targets": ("k_proj", "up_proj"), "rslora": True}, True),
        ({"dropout": 0.3}, False),
        ({"dora": True}, False),
        ({"modules_to_save": ("embed_tokens",)}, True),
        ({"modules_to_save": ("post_attention_layernorm",)}, False),
        ({"gradient_checkpointing": True}, False),
    ],
)
def test_other_adapters(tmp_path: Path, lora: dict[str, object], way: bool) -> None:
    """Where blocks compute more than can be merged they go their own way."""
    results = []
    for fast in (False, True):
        encoder = encoder_of(tmp_path, fast=fast, lora=lora)
        seed_dropout(1, 0)
        results.append(step(encoder, share=False))
    assert ran(encoder) == way
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    assert close(results[1][1], results[0][1])


def test_the_comparison_sees_a_wrong_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the norm takes away from the gradient, and with positions turned the wrong way back."""
    _, expected, _ = step(encoder_of(tmp_path, fast=False, lora={}), share=False)
    fast = encoder_of(tmp_path, fast=True, lora={})
    with monkeypatch.context() as patch:
        patch.setattr("train.kernels.block_autograd.unit_rms_backward", lambda at, _, inverse: at.mul_(inverse))
        assert not close(step(fast, share=False)[1], expected)
    assert close(step(fast, share=False)[1], expected)


@pytest.mark.parametrize(("window", "way"), [(2, False), (64, True)])
def test_a_sliding_window_that_a_text_is_longer_than(tmp_path: Path, window: int, way: bool) -> None:
    """Short rows are read without the decoder's mask, which says how far back a token sees."""
    results = []
    for sliding, fast in ((window, False), (window, True), (None, False)):
        folder = tmp_path / f"{sliding}-{fast}"
        folder.mkdir()
        tiny_model_folder(folder, "mistral")
        config = MistralConfig.from_pretrained(folder)
        config.sliding_window = sliding
        config.save_pretrained(folder)
        encoder = tiny_encoder(folder, "mistral", lora=LoraConfig(rank=4, alpha=4.0, fused=fast))
        encoder.embedder.train()
        results.append(step(encoder, share=False))
        if fast:
            assert ran(encoder) == way
    (_, plain, _), (_, fast_gradients, _), (_, unlimited, _) = results
    assert close(fast_gradients, plain)
    assert close(unlimited, plain) == way


def test_attention_in_both_directions_keeps_its_own_blocks(tmp_path: Path) -> None:
    plain, fast = (encoder_of(tmp_path, fast=fast, lora={}, bidirectional=True) for fast in (False, True))
    expected = step(plain, share=False)[1]
    assert close(step(fast, share=False)[1], expected) and not ran(fast)
    assert not close(step(encoder_of(tmp_path, fast=True, lora={}), share=False)[1], expected)


def test_follows_the_weights(tmp_path: Path) -> None:
    """What is merged is made anew when a weight has changed: of the adapters, the base, or a norm."""
    encoder = encoder_of(tmp_path, fast=True, lora={})
    losses = [step(encoder, share=False)[0]]
    for part in ("q_proj.lora_A", "down_proj.lora_B", "o_proj.base_layer", "post_attention_layernorm"):
        with torch.no_grad():
            for name, parameter in encoder.embedder.named_parameters():
                if part in name:
                    parameter *= 1.5
        losses.append(step(encoder, share=False)[0])
        plain = tiny_encoder(tmp_path, lora=LoraConfig(rank=4, alpha=4.0, fused=False))
        plain.embedder.load_state_dict(encoder.embedder.state_dict())
        assert losses[-1] == pytest.approx(step(plain, share=False)[0], rel=1e-5)
    assert len({round(loss, 4) for loss in losses}) == len(losses)


@pytest.mark.parametrize(("model", "width"), [({}, 1), ({"pooling": "mean"}, 4)])
def test_the_last_block_runs_where_it_is_read(tmp_path: Path, model: dict[str, object], width: int) -> None:
    embedder = encoder_of(tmp_path, fast=True, lora={}, **model).embedder
    seen: list[int] = []
    final_norm(embedder.backbone, embedder.layer_count).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[1])
    )
    embedder(torch.tensor([[5, 6, 7, 8], [9, 10, 4, 4]]), torch.tensor([4, 2]))
    assert seen == [width]


def test_without_adapters_the_base_is_read(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, fast=True, lora={})
    ids, lengths = torch.tensor([[5, 6, 7, 8], [9, 10, 4, 4]]), torch.tensor([4, 2])
    tuned = encoder.embedder(ids, lengths)[0]
    with encoder.embedder.backbone.disable_adapter():
        off = encoder.embedder(ids, lengths)[0]
    base = encoder_of(tmp_path, fast=False, lora={}).embedder
    with base.backbone.disable_adapter():
        torch.testing.assert_close(off, base(ids, lengths)[0], rtol=1e-5, atol=1e-5)
    assert (tuned - off).abs().max() > 1e-3
