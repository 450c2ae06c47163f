"""Texts end to end give the loss and every gradient of padded rows; the CUDA kernel is replaced by plain attention."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

import dec2vec.decoder.varlen
import train.adapters.capabilities
from dec2vec.decoder.last_token_block import FAMILIES
from dec2vec.decoder.layers import decoder_blocks
from dec2vec.decoder.varlen import NAME, PackedSequences
from tests.test_fast_blocks import encoder_of, ran
from tests.test_gradcache import close
from tests.test_prefix_gradient import PROMPT, step
from train.adapters.capabilities import leave_out_padding, why_padded
from train.distributed.single import Single


def kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """As torch's, in float64: (token, head, dim), each row by itself."""
    given = {"scale": scale, "window_size": window_size, "enable_gqa": enable_gqa}
    inspect.signature(varlen_attn).bind(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **given)
    edges = cu_seq_q.tolist()
    assert cu_seq_q.dtype == torch.int32 and cu_seq_k is cu_seq_q and window_size == (-1, 0) and scale is not None
    assert max_q == max_k >= max(stop - start for start, stop in pairwise(edges))
    assert edges[0] == 0 and edges[-1] == len(query) == len(key) == len(value)
    assert enable_gqa == (query.shape[1] != key.shape[1])
    group, found = query.shape[1] // key.shape[1], []
    for start, stop in pairwise(edges):
        own = [part[start:stop].double().transpose(0, 1) for part in (query, key, value)]
        own[1:] = [part.repeat_interleave(group, 0) for part in own[1:]]
        later = torch.ones(stop - start, stop - start, dtype=torch.bool).triu(1)
        logits = (scale * own[0] @ own[1].mT).masked_fill(later, -torch.inf)
        found.append((logits.softmax(-1) @ own[2]).transpose(0, 1))
    return torch.cat(found).to(query.dtype)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Tensor]], None]:
    return lambda chosen: monkeypatch.setattr(dec2vec.decoder.varlen, "find_kernel", lambda: chosen)


@pytest.mark.parametrize(
    ("family", "model"),
    [(family, {}) for family in sorted(FAMILIES)]
    + [("llama", {"pooling": "mean"}), ("qwen3", {"pooling": "weighted_mean", "layer": 1}), ("llama", {"layer": 1})],
)
def test_equals_padded_rows(
    tmp_path: Path, use: Callable[[Callable[..., Tensor]], None], family: str, model: dict[str, object]
) -> None:
    calls: list[int] = []

    @functools.wraps(kernel)
    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(len(arguments[0]))
        return kernel(*arguments, **options)

    use(counted)
    encoder = encoder_of(tmp_path, family, fast=True, lora={}, **model)
    loss, expected, batch = step(encoder, share=False)
    assert not calls and batch.padded_tokens > batch.real_tokens
    for block in decoder_blocks(encoder.embedder.backbone, encoder.layer_count) or ():
        block.memory._stacks.clear()
    encoder.embedder.unpadded = True
    for graph_tokens in (0, 10_000):
        found_loss, found, _ = step(encoder, share=False, graph_tokens=graph_tokens)
        assert found_loss == pytest.approx(loss, rel=1e-5) and close(found, expected)
    assert sum(calls) % batch.real_tokens == 0 and calls and ran(encoder)
    assert encoder.embedder.backbone.config._attn_implementation == "sdpa" != NAME


def test_one_row_and_many_views(tmp_path: Path, use: Callable[[Callable[..., Tensor]], None]) -> None:
    use(kernel)
    encoder = encoder_of(tmp_path, fast=False, lora={})
    for texts in (["the cat"], ["the cat", "dog ran on and on", "a"]):
        expected = encoder.encode(texts, progress=False)
        encoder.embedder.unpadded = True
        found = encoder.encode(texts, progress=False)
        encoder.embedder.unpadded = False
        torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_the_comparison_sees_wrong_edges(tmp_path: Path, use: Callable[[Callable[..., Tensor]], None]) -> None:
    """Two rows as if they were one."""

    def merged(*arguments: Any, **options: Any) -> Tensor:
        edges = arguments[3]
        edges = edges if len(edges) == 2 else torch.cat([edges[:1], edges[2:]])
        longest = int(edges.diff().max())
        return kernel(*arguments[:3], edges, edges, longest, longest, **options)

    encoder = encoder_of(tmp_path, fast=True, lora={})
    _, expected, _ = step(encoder, share=False)
    use(merged)
    encoder.embedder.unpadded = True
    assert not close(step(encoder, share=False)[1], expected)


def test_a_kernel_without_grouped_queries_gets_keys_repeated(
    tmp_path: Path, use: Callable[[Callable[..., Tensor]], None]
) -> None:
    """As in torch 2.11."""

    def older(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
    ) -> Tensor:
        assert query.shape == key.shape == value.shape
        return kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size)

    encoder = encoder_of(tmp_path, fast=True, lora={})
    assert encoder.embedder.backbone.config.num_key_value_heads < encoder.embedder.backbone.config.num_attention_heads
    _, expected, _ = step(encoder, share=False)
    use(older)
    encoder.embedder.unpadded = True
    assert close(step(encoder, share=False)[1], expected)


def test_a_common_beginning_goes_the_padded_way(tmp_path: Path, use: Callable[[Callable[..., Tensor]], None]) -> None:
    use(lambda *_, **__: pytest.fail("the kernel knows no common beginning"))
    encoder = encoder_of(tmp_path, fast=True, lora={}, prompt=PROMPT, max_length=100)
    encoder.embedder.unpadded = True
    assert step(encoder, share=True)[2].prefix is not None


def test_rows_and_back() -> None:
    laid = PackedSequences.from_lengths(torch.tensor([2, 1, 3]), 3)
    ids = torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
    assert laid.ids(ids).tolist() == [[1, 2, 3, 4, 5, 6]] and laid.edges.tolist() == [0, 2, 3, 6]
    assert laid.ends.tolist() == [1, 2, 5] and laid.arguments["position_ids"].tolist() == [[0, 1, 0, 0, 1, 2]]
    assert laid.padded(laid.ids(ids)[..., None].float())[..., 0].tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("family", "model", "reason"),
    [
        ("llama", {}, "16-bit"),
        ("gemma", {"autocast": "on"}, "family"),
        ("llama", {"autocast": "on", "bidirectional": True}, "bidirectional attention"),
        ("llama", {"autocast": "on", "attention": "eager"}, "sdpa"),
        ("llama", {"autocast": "on"}, "heads have 4"),
        ("qwen3", {"autocast": "on"}, None),
        ("qwen3", {"dtype": "bfloat16"}, None),
    ],
)
def test_why_padded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    family: str,
    model: dict[str, object],
    reason: str | None,
) -> None:
    embedder = encoder_of(tmp_path, family, fast=True, lora={}, device="cpu", **model).embedder
    assert "CUDA" in str(why_padded(Single(embedder)))
    monkeypatch.setattr("train.adapters.capabilities.why_padded", train.adapters.capabilities._why_not_for_this_model)
    with caplog.at_level("INFO", logger="train"):
        leave_out_padding(Single(embedder))
    assert embedder.unpadded == (reason is None)
    assert (reason or "") in caplog.text and bool(caplog.text) == (reason is not None)
