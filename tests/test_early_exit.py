"""A pass that ends at the pooled layer equals the whole pass, in every state and gradient, and runs nothing above."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.layers import decoder_blocks, inner_states
from dec2vec.decoder.pooling import View, layers_of, pool
from dec2vec.encoder import Encoder
from tests.helpers import FAMILIES, tiny_model_folder
from tests.training_setup import tiny_encoder
from train.config import LoraConfig

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 4, 4]])
LENGTHS = torch.tensor([4, 2])


@pytest.fixture(params=FAMILIES)
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> Encoder:
    folder = tiny_model_folder(tmp_path, request.param)
    return Encoder.load(ModelConfig(name_or_path=str(folder), max_length=64, autocast="off"))


def blocks_of(encoder: Encoder) -> nn.ModuleList:
    blocks = decoder_blocks(encoder.embedder.backbone, encoder.layer_count)
    assert blocks is not None
    return blocks


def test_states_equal_the_whole_pass(encoder: Encoder) -> None:
    """Every family's blocks are found, and the input of block i is hidden state i, not that of its neighbour."""
    backbone = encoder.embedder.backbone
    expected = backbone(input_ids=IDS, use_cache=False, output_hidden_states=True).hidden_states
    for top in range(encoder.layer_count):
        found = inner_states(backbone, blocks_of(encoder), set(range(top + 1)), input_ids=IDS, use_cache=False)
        assert sorted(found) == list(range(top + 1))
        for index, state in found.items():
            torch.testing.assert_close(state, expected[index], rtol=0, atol=0)
            assert not torch.allclose(state, expected[index + 1], atol=1e-3)


def test_nothing_above_runs_and_no_hook_stays(encoder: Encoder) -> None:
    ran: list[int] = []
    blocks = blocks_of(encoder)
    handles = [
        block.register_forward_hook(lambda *_, index=index: ran.append(index)) for index, block in enumerate(blocks)
    ]
    encoder.embedder(IDS, LENGTHS, [View("mean", 1)])
    assert ran == [0]
    ran.clear()
    encoder.embedder(IDS, LENGTHS, [View("mean", 1), View("last", -1)])
    assert ran == list(range(encoder.layer_count))
    for handle in handles:
        handle.remove()
    assert not any(block._forward_pre_hooks for block in blocks)


def plain_gradients(embedder: Embedder) -> dict[str, Tensor]:
    """Of the whole pass with `output_hidden_states`; parameters above the pooled layer get zeros or nothing."""
    output = embedder.backbone(input_ids=IDS, use_cache=False, output_hidden_states=True)
    states = dict(enumerate(output.hidden_states))
    return gradients(embedder, pool(states, LENGTHS, embedder.view, embedder.layer_count))


def gradients(embedder: Embedder, pooled: Tensor) -> dict[str, Tensor]:
    (pooled * torch.linspace(-1.0, 2.0, pooled.numel()).view_as(pooled)).sum().backward()
    named = embedder.named_parameters()
    found = {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
    embedder.zero_grad(set_to_none=True)
    return {name: value for name, value in found.items() if value.any()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "lora", [LoraConfig(rank=4), LoraConfig(rank=4, gradient_checkpointing=True), LoraConfig(method="full")]
)
def test_gradients_equal_the_whole_pass(tmp_path: Path, family: str, lora: LoraConfig) -> None:
    """With those of a neighbouring layer as negative control."""
    embedder = tiny_encoder(tmp_path, family, lora=lora, pooling="mean", layer=2).embedder
    embedder.train()
    same_gradients(gradients(embedder, embedder(IDS, LENGTHS)[0]), plain_gradients(embedder))
    other = gradients(embedder, embedder(IDS, LENGTHS, [View("mean", 1)])[0])
    with pytest.raises(AssertionError):
        same_gradients(other, plain_gradients(embedder))


@pytest.mark.parametrize("pooling", ["last", "weighted_mean", "max", "first_last"])
def test_gradients_of_every_pooling(tmp_path: Path, pooling: str) -> None:
    embedder = tiny_encoder(tmp_path, pooling=pooling, layer=2).embedder
    same_gradients(gradients(embedder, embedder(IDS, LENGTHS)[0]), plain_gradients(embedder))


def same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert expected and found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6 * float(value.abs().max()))


def test_layers_of_a_view() -> None:
    assert layers_of(View("mean", -1), 4) == {4}
    assert layers_of(View("first_last", 0.5), 4) == {1, 2}


def test_without_a_list_of_blocks_the_whole_pass_is_read() -> None:
    assert decoder_blocks(nn.ModuleList([nn.Linear(2, 2)]), 3) is None
