"""Frozen weights are rounded for autocast once, with the loss and gradients of rounding them in every pass."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.parametrize
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dec2vec.encoder import Encoder
from tests.test_prefix_gradient import PROMPT, step
from tests.training_setup import tiny_encoder
from train.config import LoraConfig
from train.distributed.single import Single
from train.gradcache.memory import graph_bytes
from train.kernels.frozen_linear import FrozenLinear, is_trained, rounded_weights, use_frozen_linears
from train.step import seed_dropout


class Casts(TorchDispatchMode):
    """Counts by shape what is rounded to 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and result.element_size() == 2 and args[0].element_size() == 4:
            self.shapes[tuple(result.shape)] += 1
        return result


def trained(folder: Path, family: str, *, fused: bool, autocast: str, **options: Any) -> Encoder:
    model = {name: options.pop(name) for name in ("prompt", "dtype") if name in options}
    lora = LoraConfig(**{"rank": 4, "alpha": 4.0, "fused": fused, **options})
    encoder = tiny_encoder(folder, family, lora=lora, autocast=autocast, max_length=100, **model)
    encoder.embedder.train()
    return encoder


def counted(encoder: Encoder, *, share: bool = False) -> tuple[float, dict[str, Tensor], int, int]:
    """Loss, gradients, chunks, and how often the frozen matrices were rounded in a step."""
    frozen = {tuple(p.shape) for p in encoder.embedder.parameters() if not p.requires_grad and p.ndim == 2}
    seed_dropout(0, 0)
    with Casts() as casts:
        loss, gradients, batch = step(encoder, share=share, graph_tokens=10_000)
    return loss, gradients, len(batch.chunks), sum(casts.shapes[shape] for shape in frozen)


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("gemma", "on", {"dropout": 0.2}),
]
FURTHER: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "on", {"gradient_checkpointing": True}),
    ("llama", "on", {"modules_to_save": ("post_attention_layernorm", "up_proj")}),
    ("llama", "on", {"init": "pissa", "dropout": 0.1}),
    ("gpt2", "float16", {"dropout": 0.2}),
    ("llama", "float16", {"dora": True}),
    ("gpt2", "on", {"rslora": True}),
    ("phi", "on", {"prompt": PROMPT}),
]


@pytest.mark.parametrize(
    ("family", "autocast", "options"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in FURTHER)]
)
def test_the_same_bits_with_one_cast_instead_of_one_a_chunk(
    tmp_path: Path, family: str, autocast: str, options: dict[str, Any]
) -> None:
    results = []
    for fused in (False, True):
        encoder = trained(tmp_path, family, fused=fused, autocast=autocast, **options)
        results.append(counted(encoder))
    (loss, expected, chunks, per_step), (found_loss, found, _, first) = results
    assert found_loss == loss and all(found[name].equal(expected[name]) for name in expected)
    matrices = sum(1 for copy in rounded_weights(encoder.embedder) if copy.ndim == 2)
    assert chunks > 4 and matrices > 4 and per_step - first >= matrices * (chunks - 1)
    assert counted(encoder)[3] == first - matrices  # in the second step none is rounded


def test_a_copy_follows_its_weight(tmp_path: Path) -> None:
    encoder = trained(tmp_path, "gemma", fused=True, autocast="on")
    losses = [step(encoder, share=False)[0]]
    layer = next(module for module in encoder.embedder.modules() if isinstance(module, FrozenLinear))
    with torch.no_grad():
        layer.weight *= 1.5
    losses.append(step(encoder, share=False)[0])
    plain = trained(tmp_path, "gemma", fused=False, autocast="on")
    plain.embedder.load_state_dict(encoder.embedder.state_dict())
    assert losses[1] == step(plain, share=False)[0] != losses[0]
    assert copy.deepcopy(layer).rounded.tensors is None and layer.rounded.tensors is not None


def test_without_autocast_or_in_evaluation_nothing_is_kept(tmp_path: Path) -> None:
    """In evaluation mode the weights may be merged ones, which PEFT changes without telling torch."""
    encoder = trained(tmp_path, "gemma", fused=True, autocast="off")
    step(encoder, share=False)
    encoder.embedder.autocast = torch.bfloat16
    encoder.encode(["a text"])
    assert not list(rounded_weights(encoder.embedder))
    step(encoder, share=False)
    assert list(rounded_weights(encoder.embedder))


def test_the_copies_do_not_count_as_a_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in memory once; a chunk's own rounded weights would be in memory for each graph that is kept."""
    chunk = step(trained(tmp_path, "gemma", fused=False, autocast="on"), share=False)[2].chunks[0]
    encoder = trained(tmp_path, "gemma", fused=True, autocast="on")
    found = graph_bytes(Single(encoder.embedder), chunk)
    copies = sum(part.untyped_storage().nbytes() for part in rounded_weights(encoder.embedder))
    monkeypatch.setattr("train.gradcache.memory.rounded_weights", lambda module: iter(()))
    assert (
        graph_bytes(Single(encoder.embedder), chunk) > found + 0.5 * copies > found
    )  # the first block's inputs need no gradient
    assert nn.Linear not in {type(module) for module in encoder.embedder.modules() if not is_trained(module)}


def test_a_parametrized_layer_computes_its_own_weight() -> None:
    """PEFT parametrizes a layer during a pass (`target_parameters`); `weight` is then no parameter of the layer."""
    layer: Any = nn.Linear(4, 4).requires_grad_(requires_grad=False)
    use_frozen_linears(layer)
    x, doubled = torch.randn(2, 4), 2 * layer.weight.detach()
    torch.nn.utils.parametrize.register_parametrization(layer, "weight", _Doubled())
    with torch.autocast("cpu", torch.bfloat16):
        expected = nn.functional.linear(x, doubled, layer.bias)
        torch.testing.assert_close(layer(x), expected, atol=0, rtol=0)


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight
