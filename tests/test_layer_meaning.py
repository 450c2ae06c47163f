"""Hidden state l is the input of block l in every family and on every path: early exit, whole pass and export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import AutoModel

from dec2vec.config.model import EncodeOptions, ModelConfig
from dec2vec.decoder.library_calls import quiet
from dec2vec.decoder.pooling import View
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from tests.export_cases import PEFT_WARNING, tuned_encoder
from tests.helpers import LAYERS, tiny_model_folder
from train.export.save import save_sentence_transformer

WITHOUT_EMBEDDINGS = ("mamba", "mamba2", "falcon_mamba", "rwkv")
"""Families in which `output_hidden_states` begins with the output of the first block."""
FAMILIES = (*WITHOUT_EMBEDDINGS, "jamba", "recurrent_gemma", "xlstm", "gemma2", "gpt_oss", "bloom", "mpt", "llama")
TEXTS = ["a man is riding a horse", "the cat"]
SILENT = EncodeOptions(progress=False)
pytestmark = pytest.mark.filterwarnings(PEFT_WARNING)


def load(folder: Path, **options: object) -> Encoder:
    return Encoder.load(ModelConfig(**{"name_or_path": str(folder), "max_length": 64, "autocast": "off", **options}))


def plain_states(family: str, folder: Path, ids: list[int]) -> list[Tensor]:
    """Hidden states 1 to n of plain transformers for a text alone."""
    with quiet(), torch.no_grad():
        model = AutoModel.from_pretrained(folder).eval()
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
    assert len(states) == LAYERS + 1
    # where the embeddings are absent, the last block's output is there twice: before and after the final norm
    return [*states[:-2], states[-1]] if family in WITHOUT_EMBEDDINGS else list(states[1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_view_is_the_same_alone_and_beside_the_last_layer(family: str, tmp_path: Path) -> None:
    encoder = load(tiny_model_folder(tmp_path, family))
    assert encoder.layer_count == LAYERS
    last = View("last", LAYERS)
    for layer in range(LAYERS):
        view = View("last", layer)
        alone = encoder.encode_views(TEXTS, [view], SILENT)[view]
        beside = encoder.encode_views(TEXTS, [view, last], SILENT)[view]
        np.testing.assert_allclose(beside, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_plain_transformers(family: str, tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path, family)
    encoder = load(folder)
    views = [View("last", layer) for layer in range(1, LAYERS + 1)]
    found = encoder.encode_views(TEXTS, views, SILENT)
    for row, ids in enumerate(encoder.tokenize(TEXTS)):
        expected = [state[0, -1].numpy() for state in plain_states(family, folder, ids)]
        for view, state in zip(views, expected, strict=True):
            np.testing.assert_allclose(found[view][row], state, rtol=1e-4, atol=1e-5 * np.abs(state).max())
        assert np.abs(found[views[0]][row] - expected[1]).max() > 1e-3  # a neighbour is another state


@pytest.mark.parametrize("family", ["mamba", "llama"])
def test_an_exported_inner_layer_is_the_same(family: str, tmp_path: Path) -> None:
    lora = {"target_modules": ["in_proj", "x_proj"]} if family == "mamba" else {}
    encoder = tuned_encoder(tmp_path / "base", family=family, layer=2, lora=lora)
    folder = save_sentence_transformer(encoder, tmp_path / "export", True, None)
    library = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(library.encode(TEXTS), encoder.encode(TEXTS, progress=False), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "layer", "why"),
    [("deepseek_v4", 2, "several states of a token"), ("longcat_flash", 3, "4 hidden states")],
)
def test_inner_layers_that_are_not_a_vector_a_token_are_refused(
    family: str, layer: int, why: str, tmp_path: Path
) -> None:
    """They were tracebacks, or vectors of another shape. The last layer is read."""
    encoder = load(tiny_model_folder(tmp_path, family))
    assert encoder.encode(TEXTS, progress=False).shape == (2, 16)
    with pytest.raises(UserError, match=f"layer {layer}: this decoder has .*{why}.*use the last layer, -1"):
        encoder.encode_views(TEXTS, [View("last", layer)], SILENT)


def test_embeddings_that_transformers_does_not_return_are_not_exported(tmp_path: Path) -> None:
    encoder = tuned_encoder(tmp_path / "base", family="mamba", layer=0, lora={"target_modules": ["in_proj"]})
    with pytest.raises(UserError, match=r"model.layer 0: transformers does not return this hidden state"):
        save_sentence_transformer(encoder, tmp_path / "export", True, None)
