"""Poolings against sentence-transformers' own, and their invariance to padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.modules import Pooling

from dec2vec.decoder.pooling import View, pool, real_tokens, resolve_layer
from dec2vec.errors import UserError

PEERS = {"last": "lasttoken", "mean": "mean", "weighted_mean": "weightedmean", "max": "max"}


def batch(lengths: list[int], width: int, seed: int = 0, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lengths), width, dim, generator=generator), torch.tensor(lengths)


@pytest.mark.parametrize("name", PEERS)
def test_equals_sentence_transformers(name: str) -> None:
    states, lengths = batch([1, 4, 7, 7], 7)
    peer = Pooling(6, pooling_mode=PEERS[name])
    features = {"token_embeddings": states, "attention_mask": real_tokens(lengths, 7).long()}
    expected = peer(features)["sentence_embedding"]
    torch.testing.assert_close(pool({3: states}, lengths, View(name, -1), 3), expected)


def test_first_last_is_the_mean_of_two_means() -> None:
    lengths = torch.tensor([2, 3])
    layers = {seed: batch([2, 3], 3, seed)[0] for seed in range(4)}
    found = pool(layers, lengths, View("first_last", -1), 3)
    for row, length in enumerate([2, 3]):
        expected = (layers[1][row, :length].mean(0) + layers[3][row, :length].mean(0)) / 2
        torch.testing.assert_close(found[row], expected)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 5), st.integers(0, 2**16))
def test_padding_changes_nothing(lengths: list[int], extra: int, seed: int) -> None:
    states, counts = batch(lengths, 6, seed)
    garbage = torch.full((len(lengths), extra, 6), 1e6)
    wider = torch.cat([states, garbage], dim=1)
    for name in (*PEERS, "first_last"):
        view = View(name, -1)
        found = pool({0: wider, 1: wider}, counts, view, 1)
        torch.testing.assert_close(found, pool({0: states, 1: states}, counts, view, 1))


def test_layers() -> None:
    assert [resolve_layer(layer, 8) for layer in (-1, -2, 0, 8, 1.0, 0.5, 0.0)] == [8, 7, 0, 8, 8, 4, 0]
    for layer in (9, -10, 1.5):
        with pytest.raises(UserError, match=f"layer {layer}"):
            resolve_layer(layer, 8)


def test_first_last_needs_one_width() -> None:
    lengths = torch.tensor([2])
    layers = {1: torch.zeros(1, 2, 4), 2: torch.zeros(1, 2, 6)}
    with pytest.raises(UserError, match="differ in width"):
        pool(layers, lengths, View("first_last", -1), 2)
