"""A prompt that is read once gives the vectors of one that is read with every text."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel, MistralConfig

from dec2vec import Encoder, ModelConfig
from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from dec2vec.decoder.shared_prefix import common_prefix
from dec2vec.inference import TokenCounts
from tests.helpers import FAMILIES, tiny_config, tiny_model_folder, tiny_tokenizer

TEXTS = ["a", "the cat sat on the mat.", "", "x " * 40, "a man?"]
VIEWS = [
    View(pooling, layer) for pooling in ("last", "mean", "weighted_mean", "first_last", "max") for layer in (0, 1, 3)
]
PROMPTS = ("prompteol", "knowledge_enhancement", "instruct")


def load(folder: Path, **options: object) -> Encoder:
    return Encoder.load(ModelConfig(**{"name_or_path": str(folder), "max_length": 160, "autocast": "off", **options}))


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_equals_whole(family: str, tmp_path: Path) -> None:
    encoder = load(tiny_model_folder(tmp_path, family))
    for prompt in PROMPTS:
        for views in (VIEWS, VIEWS[:1], VIEWS[1:2]):
            encoder.share_prefix = True
            shared = encoder.encode_views(TEXTS, views, EncodeOptions(prompt, batch_tokens=300))
            encoder.share_prefix = False
            whole = encoder.encode_views(TEXTS, views, EncodeOptions(prompt, batch_tokens=300))
            for view in views:
                np.testing.assert_allclose(shared[view], whole[view], rtol=0, atol=1e-5)


def test_the_prefix_is_read_once(tmp_path: Path) -> None:
    encoder = load(tiny_model_folder(tmp_path))
    seen: list[tuple[int, ...]] = []
    encoder.embedder.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    prefix = len(common_prefix(encoder.tokenize(TEXTS, prompt="knowledge_enhancement")))
    encoder.encode_views(TEXTS, VIEWS, EncodeOptions("knowledge_enhancement"))
    assert seen[0] == (1, prefix) and len(seen) == 2
    assert seen[1] == (len(TEXTS), max(map(len, encoder.tokenize(TEXTS, prompt="knowledge_enhancement"))) - prefix)


def test_what_was_read_is_counted(tmp_path: Path) -> None:
    encoder = load(tiny_model_folder(tmp_path))
    ids = encoder.tokenize(TEXTS, prompt="knowledge_enhancement")
    whole, prefix = sum(map(len, ids)), len(common_prefix(ids))
    encoder.encode_views([*TEXTS, TEXTS[0]], VIEWS, EncodeOptions("knowledge_enhancement"))
    saved = prefix * (len(TEXTS) - 1)
    assert prefix > 20 and encoder.tally == TokenCounts(tokens=whole - saved, prefix=prefix, saved=saved)
    encoder.share_prefix = False
    encoder.encode_views(TEXTS, VIEWS, EncodeOptions("knowledge_enhancement"))
    assert encoder.tally == TokenCounts(tokens=2 * whole - saved, prefix=prefix, saved=saved)


def test_another_prefix_gives_other_vectors(tmp_path: Path) -> None:
    """The negative control: what is shared is read by the texts."""
    encoder = load(tiny_model_folder(tmp_path))
    ids = torch.tensor([[5, 6, 7]])
    first, second = (
        encoder.embedder(
            ids, torch.tensor([3]), VIEWS[2:3], None, encoder.embedder.read_prefix(torch.tensor(start), VIEWS[2:3])
        )
        for start in ([9, 10, 11, 12], [9, 10, 11, 13])
    )
    assert (first[0] - second[0]).abs().max() > 1e-3


def test_sliding_windows_fall_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config("mistral")
    assert isinstance(config, MistralConfig)
    config.sliding_window = 4
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    encoder = load(tmp_path)
    with caplog.at_level(logging.INFO, "dec2vec.inference"):
        whole = encoder.encode_views(TEXTS, VIEWS, EncodeOptions("knowledge_enhancement"))
    assert "recomputed for each text" in caplog.text
    encoder.share_prefix = False
    plain = encoder.encode_views(TEXTS, VIEWS, EncodeOptions("knowledge_enhancement"))
    for view in VIEWS:
        np.testing.assert_array_equal(whole[view], plain[view])


@given(st.lists(st.lists(st.integers(0, 2), min_size=1), min_size=1))
def test_common_prefix(sequences: list[list[int]]) -> None:
    found = common_prefix(sequences)
    assert all(row[: len(found)] == found and len(row) > len(found) for row in sequences)
    longer = len(found) + 1
    assert any(len(row) <= longer for row in sequences) or len({tuple(row[:longer]) for row in sequences}) > 1
