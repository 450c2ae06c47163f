"""Batched products for short rows are torch's own attention, in value and gradient, with and without a beginning."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from train.kernels.short_attention import ShortAttention, by_token, causal_mask, heads_first

HEADS, GROUP, BATCH, TIME, DIM, PREFIX = 2, 3, 4, 5, 6, 7


def inputs(prefix: int, time: int) -> list[Tensor]:
    """Queries (batch, time, key head, group, dim); keys and values with one query each, those of the beginning last."""
    torch.manual_seed(0)
    tokens = [torch.randn(BATCH, time, HEADS, GROUP, DIM)] + [torch.randn(BATCH, TIME, HEADS, 1, DIM) for _ in "kv"]
    first = [torch.randn(1, HEADS, prefix, DIM) for _ in "kv"] if prefix else []
    return [part.double().requires_grad_() for part in (*tokens, *first)]


def ours(parts: list[Tensor], mask: Tensor) -> Tensor:
    laid_out = []
    for part in parts[:3]:
        room = heads_first(part)
        group = part.shape[3]
        laid_out.append(part.permute(2, 0, 1, 3, 4).reshape(room.shape))
        assert by_token(laid_out[-1], group).equal(part)
    first = parts[3:] or [None, None]
    found: Tensor = ShortAttention.apply(*laid_out, *first, mask, 0.4, GROUP)
    return found


def torchs(parts: list[Tensor], mask: Tensor) -> Tensor:
    query, key, value = (part.permute(0, 2, 3, 1, 4).flatten(1, 2) for part in parts[:3])
    if parts[3:]:
        first = [part.expand(BATCH, -1, -1, -1) for part in parts[3:]]
        key, value = torch.cat([first[0], key], 2), torch.cat([first[1], value], 2)
    key, value = (part.repeat_interleave(GROUP, 1) for part in (key, value))
    seen = F.pad(mask, (key.shape[2] - TIME, 0))
    rows = seen.unflatten(1, (-1, GROUP))[:, :, 0]  # all queries of a token see the same
    return F.scaled_dot_product_attention(query, key, value, rows[:, None], scale=0.4).transpose(1, 2).flatten(2)


def both(parts: list[Tensor], mask: Tensor) -> list[list[Tensor]]:
    weights = torch.linspace(-1, 1, parts[0].numel(), dtype=torch.float64)
    found = []
    for way in (ours, torchs):
        output = way(parts, mask)
        gradients = torch.autograd.grad((output.flatten() * weights).sum(), parts)
        found.append([output.detach(), *gradients])
    return found


@pytest.mark.parametrize("prefix", [0, PREFIX])
@pytest.mark.parametrize("whole", [True, False])
def test_equals_torchs(prefix: int, whole: bool) -> None:
    """Of whole rows, and of one place of each row, where rows end at different places."""
    parts = inputs(prefix, TIME if whole else 1)
    if whole:
        mask = causal_mask(TIME, GROUP, parts[0])
    else:
        places = torch.tensor([0, 2, 4, 3])
        unseen = torch.arange(TIME) > places[:, None]
        row = torch.zeros(BATCH, TIME, dtype=torch.float64).masked_fill_(unseen, -torch.inf)
        mask = row[:, None].expand(-1, GROUP, -1)
    for found, expected in zip(*both(parts, mask), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    other = torchs(parts, torch.zeros_like(mask))
    assert (both(parts, mask)[0][0] - other).abs().max() > 1e-3
