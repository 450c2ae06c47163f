"""Views beyond one plain hidden state: inner layers through the final norm, and both readings of first-last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import OpenAIGPTConfig, OpenAIGPTModel

from dec2vec import Encoder, ModelConfig, UserError
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.layers import final_norm
from dec2vec.decoder.pooling import View, layers_of, pool
from tests.helpers import FAMILIES, LAYERS, tiny_model_folder
from tests.training_setup import tiny_encoder

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 4, 4]])
TEXTS = ["a man?", "the cat sat on the mat.", "", "x " * 30]
NORMED = [View("last", 1, norm=True), View("mean", 0, norm=True), View("first_last", -1, norm=True)]
VIEWS = [*NORMED, View("first_last_static", -1), View("first_last_static", 2), View("mean", 1)]


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """With norm weights that are not all 1, so that a norm without them would show."""
    folder = tiny_model_folder(tmp_path_factory.mktemp(request.param), request.param)
    found = Encoder.load(ModelConfig(name_or_path=str(folder), max_length=64, autocast="off"))
    torch.manual_seed(0)
    for parameter in final_norm(found.embedder.backbone, LAYERS).parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    return found


def hidden_states(encoder: Encoder, text: str) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        ids = torch.tensor(encoder.tokenize([text]))
        return tuple(encoder.embedder.backbone(input_ids=ids, output_hidden_states=True).hidden_states)


def test_the_norm_is_what_stands_between_the_last_block_and_the_last_state(encoder: Encoder) -> None:
    """Every family's is found: norm(output of the last block) is `hidden_states[-1]`, without it it is not."""
    backbone = encoder.embedder.backbone
    norm = final_norm(backbone, LAYERS)
    entered: list[torch.Tensor] = []
    handle = norm.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    last = backbone(input_ids=IDS).last_hidden_state
    handle.remove()
    assert len(entered) == 1
    torch.testing.assert_close(norm(entered[0]), last)
    assert not torch.allclose(entered[0], last, atol=1e-2)


def test_views_equal_numpy_on_a_plain_forward_pass(encoder: Encoder) -> None:
    norm = final_norm(encoder.embedder.backbone, LAYERS)
    found = encoder.encode_views(TEXTS, VIEWS)
    for row, text in enumerate(TEXTS):
        states = hidden_states(encoder, text)
        raw = [state[0].numpy() for state in states]
        normed = [norm(state)[0].detach().numpy() for state in states[:-1]]
        expected = [
            normed[1][-1],
            normed[0].mean(0),
            (normed[1].mean(0) + raw[-1].mean(0)) / 2,
            (raw[0].mean(0) + raw[-1].mean(0)) / 2,
            (raw[0].mean(0) + raw[2].mean(0)) / 2,
            raw[1].mean(0),
        ]
        for view, vector in zip(VIEWS, expected, strict=True):
            np.testing.assert_allclose(found[view][row], vector, rtol=0, atol=1e-5)


def test_each_differs_from_its_neighbour(encoder: Encoder) -> None:
    """Negative control of the above."""
    pairs = [(view, View(view.pooling, view.layer)) for view in NORMED]
    pairs.append((View("first_last_static", -1), View("first_last", -1)))
    found = encoder.encode_views(TEXTS, [view for pair in pairs for view in pair])
    for left, right in pairs:
        assert np.abs(found[left] - found[right]).max() > 1e-3


def test_own_text_only(encoder: Encoder) -> None:
    """Invariant 1 for the new views."""
    alone = [encoder.encode_views([text], VIEWS) for text in TEXTS]
    for budget in (1, 100_000):
        together = encoder.encode_views(TEXTS[::-1], VIEWS, EncodeOptions(batch_tokens=budget))
        for view in VIEWS:
            expected = np.concatenate([vectors[view] for vectors in alone[::-1]])
            np.testing.assert_allclose(together[view], expected, rtol=0, atol=1e-5)


def test_no_block_runs_for_a_norm(encoder: Encoder) -> None:
    """An inner layer through the norm still ends the pass at that layer."""
    entered: list[nn.Module] = []
    norm = final_norm(encoder.embedder.backbone, LAYERS)
    lists = [module for module in encoder.embedder.backbone.modules() if isinstance(module, nn.ModuleList)]
    blocks = next(modules for modules in lists if len(modules) == LAYERS)
    handles = [module.register_forward_hook(lambda module, *_: entered.append(module)) for module in (*blocks, norm)]
    encoder.embedder(IDS, torch.tensor([4, 2]), [View("last", 1, norm=True)])
    for handle in handles:
        handle.remove()
    assert entered == [blocks[0], norm]


def test_under_peft(tmp_path: Path) -> None:
    embedder = tiny_encoder(tmp_path).embedder
    states = embedder.backbone(input_ids=IDS, output_hidden_states=True).hidden_states
    expected = final_norm(embedder.backbone, LAYERS)(states[1])[0, 3]
    (found,) = embedder(IDS, torch.tensor([4, 2]), [NORMED[0]])
    torch.testing.assert_close(found[0], expected)


def test_where_there_is_nothing_to_apply() -> None:
    for layer in (-1, LAYERS, 1.0):
        with pytest.raises(UserError, match=r"view last@.*\+norm: the final norm has already been applied"):
            layers_of(View("last", layer, norm=True), LAYERS)
    gpt1 = OpenAIGPTModel(OpenAIGPTConfig(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2))
    with pytest.raises(UserError, match="no final norm"):
        final_norm(gpt1, 2)


def test_layers_and_names() -> None:
    assert [str(view) for view in NORMED[:2]] == ["last@1+norm", "mean@0+norm"]
    assert layers_of(View("first_last_static", 0.5), 4) == {0, 2}
    assert layers_of(View("first_last", -1, norm=True), 4) == {1, 4}
    states = {0: torch.zeros(1, 2, 4), 2: torch.zeros(1, 2, 6)}
    with pytest.raises(UserError, match="first_last_static: layers 0 and 2 differ in width"):
        pool(states, torch.tensor([2]), View("first_last_static", -1), 2)
