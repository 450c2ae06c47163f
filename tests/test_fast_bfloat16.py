"""Under autocast the fast blocks are as near to float32 as the decoder's own blocks with PEFT's layers are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dec2vec.decoder.layers import decoder_blocks
from dec2vec.encoder import Encoder
from tests.test_fast_blocks import encoder_of, ran
from tests.test_gradcache import close
from tests.test_prefix_gradient import PROMPT, step
from train.kernels.lora_linear import product_dtype
from train.kernels.lora_stack import ConcatenatedStack, HalfStack, Layer, LoraStack, MergedStack, SeparateStack

SETTINGS = [{}, {"prompt": PROMPT, "max_length": 100}, {"pooling": "mean", "layer": 2}]


def gradient(encoder: Encoder, *, share: bool) -> Tensor:
    """Of all adapters, in one vector."""
    return torch.cat([value.flatten() for value in step(encoder, share=share)[1].values()])


def stacks(encoder: Encoder) -> set[type[LoraStack]]:
    blocks = decoder_blocks(encoder.embedder.backbone, encoder.layer_count) or ()
    return {type(made) for block in blocks for _, made in block.memory._stacks.values()}


def distances(folder: Path, family: str, lora: dict[str, object], model: dict[str, object]) -> tuple[float, float]:
    """From the float32 gradient, of its length: of autocast's own way, and of the fast one."""
    found = []
    kind = SeparateStack if model.get("dtype") == "bfloat16" else ConcatenatedStack
    for autocast, fast in (("off", False), ("on", False), ("on", True)):
        encoder = encoder_of(folder, family, fast=fast, lora=lora, autocast=autocast, **model)
        if autocast == "off":
            encoder.embedder.float()
        found.append(gradient(encoder, share="prompt" in model))
        assert ran(encoder) == fast and (not fast or stacks(encoder) == {kind})
    exact, plain, fast_one = found
    return float((plain - exact).norm() / exact.norm()), float((fast_one - exact).norm() / exact.norm())


FEW = {"targets": ("k_proj", "up_proj"), "rslora": True}
CASES = [("llama", FEW), ("qwen2", {}), ("qwen3", {})]
FURTHER = [("llama", {}), ("mistral", {}), ("mistral", FEW), ("qwen2", FEW), ("qwen3", FEW)]


@pytest.mark.parametrize(
    ("family", "lora"), [*CASES, *(pytest.param(*further, marks=pytest.mark.slow) for further in FURTHER)]
)
def test_as_near_to_float32_as_autocast(tmp_path: Path, family: str, lora: dict[str, object]) -> None:
    """A gradient is one draw of rounding errors: the mean over settings is compared, and none may stand out."""
    plain, fast = torch.tensor([distances(tmp_path, family, lora, model) for model in SETTINGS]).T
    assert 0.0 < float(fast.mean()) < 1.25 * float(plain.mean())
    assert bool((fast < 2 * plain).all())


BASES = [("qwen3", "bfloat16", True)]
FURTHER_BASES = [("llama", "bfloat16", False), ("qwen2", "bfloat16", True), ("mistral", "float32", True)]


@pytest.mark.parametrize(
    ("family", "dtype", "on_gpu"), [*BASES, *(pytest.param(*base, marks=pytest.mark.slow) for base in FURTHER_BASES)]
)
def test_a_bfloat16_base_and_the_attention_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, dtype: str, on_gpu: bool
) -> None:
    """What the blocks add up is in float32, and in bfloat16 where a bfloat16 base goes its own way."""
    if on_gpu:
        monkeypatch.setattr("train.kernels.short_attention.is_cpu", lambda device: False)
    models = [{**model, "dtype": dtype} for model in SETTINGS]
    plain, fast = torch.tensor([distances(tmp_path, family, {}, model) for model in models]).T
    assert 0.0 < float(fast.mean()) < 1.25 * float(plain.mean())
    assert bool((fast < 2 * plain).all())


@pytest.mark.parametrize(
    ("kind", "family", "lora"),
    [(SeparateStack, "qwen3", {}), pytest.param(ConcatenatedStack, "qwen2", FEW, marks=pytest.mark.slow)]
    + [pytest.param(SeparateStack, family, FEW, marks=pytest.mark.slow) for family in ("llama", "qwen2")],
)
def test_with_float32_products_the_same_passes_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[HalfStack], family: str, lora: dict[str, object]
) -> None:
    """All that differs from 16 bits is the rounding. The attention is that of a GPU."""
    plain = encoder_of(tmp_path, family, fast=False, lora=lora)
    expected = step(plain, share=False)[1]
    monkeypatch.setattr("train.kernels.short_attention.is_cpu", lambda device: False)
    monkeypatch.setattr(LoraStack, "from_layers", staticmethod(kind))
    encoder = encoder_of(tmp_path, family, fast=True, lora=lora)
    assert close(step(encoder, share=False)[1], expected) and stacks(encoder) == {kind}
    monkeypatch.setattr(kind, "_low", lambda self, rows: rows[:, self._dim :] * 1.01)
    assert not close(step(encoder_of(tmp_path, family, fast=True, lora=lora), share=False)[1], expected)


@pytest.mark.parametrize("wrong", ["norm", "adapter"])
def test_the_comparison_sees_a_wrong_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Without what a norm takes away from the gradient, or without what reaches the input through the adapters."""
    if wrong == "norm":
        monkeypatch.setattr("train.kernels.block_autograd.unit_rms_backward", lambda at, _, inverse: at.mul_(inverse))
    else:
        monkeypatch.setattr(Tensor, "addmm", lambda self, *_: self)
    plain, fast = distances(tmp_path, "llama", {}, {})
    assert fast > 4 * plain


def test_small_updates_of_bfloat16_weights_are_seen() -> None:
    """Smaller than half of a weight's last bit; with W' rounded, the negative control, they are all gone."""
    torch.manual_seed(0)
    weight = (torch.rand(64, 32) / 2 + 0.5).bfloat16().float()
    x, down, up = torch.randn(4096, 32), torch.randn(4, 32), torch.randn(64, 4) * 1e-4
    exact = x @ (up @ down).T
    layers = [Layer(weight, None, down, up, 1.0), Layer(weight, None, down, torch.zeros_like(up), 1.0)]

    def seen(outputs: list[Tensor]) -> float:
        change = outputs[0].float() - outputs[1].float()
        return float((change * exact).sum() / exact.square().sum())

    stacks = [LoraStack.from_layers([layer], None, torch.bfloat16) for layer in layers]
    assert seen([stack(stack.prepare_inputs(x)) for stack in stacks]) == pytest.approx(1.0, abs=0.1)
    assert seen([F.linear(x.bfloat16(), layer.merged().bfloat16()) for layer in layers]) == 0.0


def test_the_products_decide_and_not_the_order_of_use(tmp_path: Path) -> None:
    """One model under autocast, then without it, then under it again."""
    encoder = encoder_of(tmp_path, fast=True, lora={})
    found = []
    for autocast in (torch.bfloat16, None, torch.bfloat16):
        encoder.embedder.autocast = autocast
        found.append(gradient(encoder, share=False))
        assert stacks(encoder) == {ConcatenatedStack if autocast else MergedStack}
    assert found[0].equal(found[2]) and not found[0].equal(found[1])
    assert F.cosine_similarity(found[0], found[1], dim=0) > 0.99


def test_in_other_places_autocast_keeps_its_own_way() -> None:
    """Activations in 16 bits without autocast, and autocast to float16."""
    x = torch.zeros(2, 4)
    assert product_dtype(x) == torch.float32 and product_dtype(x.bfloat16()) is None
    for dtype, expected in ((torch.bfloat16, torch.bfloat16), (torch.float16, None)):
        with torch.autocast("cpu", dtype):
            assert product_dtype(x) == product_dtype(x.bfloat16()) == expected and product_dtype(x.half()) is None
