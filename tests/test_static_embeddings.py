"""SIF averages against the paper's formula in a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel

from dec2vec import Encoder, ModelConfig, UserError
from eval.baselines.input_embeddings import input_embeddings, text_ids
from eval.baselines.sif import sif_vectors, token_frequencies
from tests.helpers import tiny_model_folder, tiny_tokenizer

IDS = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=6)


@given(IDS, st.sampled_from([1e-4, 1e-3, 1.0]))
def test_equals_the_formula(ids: list[list[int]], smoothing: float) -> None:
    table = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)
    frequencies = token_frequencies([*ids, [0, 0, 3]], 10)
    flat = [token for row in [*ids, [0, 0, 3]] for token in row]
    found = sif_vectors(ids, table, frequencies, smoothing)
    for row, tokens in enumerate(ids):
        expected = np.zeros(4)
        for token in tokens:
            share = flat.count(token) / len(flat)
            expected += smoothing / (smoothing + share) * table[token].astype(np.float64) / len(tokens)
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-7)


def test_a_great_smoothing_is_the_plain_mean_and_a_small_one_is_not() -> None:
    table = np.random.default_rng(1).standard_normal((10, 4)).astype(np.float32)
    ids, frequencies = [[1, 2, 2, 5]], token_frequencies([[1, 2, 2, 2, 2, 2, 7]], 10)
    plain = table[ids[0]].mean(0)
    np.testing.assert_allclose(sif_vectors(ids, table, frequencies, 1e9)[0], plain, rtol=1e-5)
    rare = sif_vectors(ids, table, frequencies)[0]
    assert np.abs(rare - plain).max() > 0.1
    np.testing.assert_allclose(rare, table[5] / 4, atol=0.02)  # the one token the training side never shows


def test_of_an_encoder(tmp_path: Path) -> None:
    """The matrix is the decoder's own, and the ids are those of the text alone."""
    encoder = Encoder.load(ModelConfig(name_or_path=str(tiny_model_folder(tmp_path)), max_length=8, autocast="off"))
    table = AutoModel.from_pretrained(tmp_path).embed_tokens.weight.detach()
    assert torch.from_numpy(input_embeddings(encoder)).equal(table)
    whole = tiny_tokenizer()("the cat sat", add_special_tokens=False)["input_ids"]
    assert text_ids(encoder, ["the cat sat", "", "\ud800"])[:2] == [whole[:8], []]
    assert max(map(len, text_ids(encoder, ["word " * 50]))) == 8


def test_nothing_to_count() -> None:
    with pytest.raises(UserError, match="no token"):
        token_frequencies([[], []], 10)
