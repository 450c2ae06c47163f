"""No product reads memory that nobody has written: NaN times zero is NaN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.test_fast_blocks import FAST, encoder_of
from tests.test_prefix_gradient import PROMPT, step
from train.kernels.lora_stack import ConcatenatedStack, Layer

WIDTHS = (64, 68, 100, 172, 682)
"""Only the first is a multiple of 32, the block of oneDNN's AMX kernels."""
_BLOCK = 32


@contextmanager
def new_memory_is_nan() -> Iterator[None]:
    """What torch allocates without a value holds NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.fixture
def as_amx_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """`torch.mm` reads its left side as oneDNN's AMX kernels do; returns the widths of those that were columns."""
    widths: list[int] = []
    plain = torch.mm

    def mm(left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
        rows, width = left.shape
        step = left.stride(0)
        if left.stride(1) == 1 and step > width:
            widths.append(width)
            read = min(-(-width // _BLOCK) * _BLOCK, step)
            if not bool(left.as_strided((rows, read), (step, 1)).isfinite().all()):
                left = torch.full_like(left, float("nan"))
        return plain(left, right) if out is None else plain(left, right, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    return widths


def passes(width: int, rank: int, rows: int) -> list[Tensor]:
    """Outputs of a stack of two layers, the gradient at its input and at its adapters."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / 10

    layers = [Layer(random(24, width), None, random(rank, width), random(24, rank), 2.0) for _ in range(2)]
    stack = ConcatenatedStack(layers, None, torch.bfloat16)
    inputs = stack.prepare_inputs(random(rows, width))
    at_inputs, at_adapters = stack.backward(inputs, random(rows, 48), at_x=True)
    assert at_inputs is not None
    return [stack(inputs)[:rows], stack.gradient_at_x(at_inputs, rows), *at_adapters]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("rank", "rows"), [(1, 64), (4, 10), (16, 70)])
def test_concatenated_adapters_of_any_width(as_amx_reads: list[int], width: int, rank: int, rows: int) -> None:
    expected = passes(width, rank, rows)
    with new_memory_is_nan():
        found = passes(width, rank, rows)
    assert width in as_amx_reads
    assert all(
        bool(one.isfinite().all()) and torch.equal(one, other) for one, other in zip(found, expected, strict=True)
    )


def test_columns_that_are_left_uninitialised_are_seen(as_amx_reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: with the columns of the adapters left as they were allocated, as they once were."""

    def filled(self: ConcatenatedStack, x: Tensor, width: int) -> Tensor:
        rows = x.new_empty(-(-len(x) // 64) * 64, width, dtype=torch.bfloat16)
        rows[:, : x.shape[1]] = 0
        rows[: len(x), : x.shape[1]] = x
        return rows

    monkeypatch.setattr(ConcatenatedStack, "_filled", filled)
    with new_memory_is_nan():
        assert bool(passes(64, 4, 10)[0].isfinite().all())
        assert not bool(passes(68, 4, 10)[0].isfinite().all())


@pytest.mark.parametrize("autocast", ["off", "on"])
@pytest.mark.parametrize("family", sorted(FAST))
@pytest.mark.parametrize("model", [{}, {"prompt": PROMPT, "max_length": 100}])
def test_a_whole_step(tmp_path: Path, family: str, autocast: str, model: dict[str, object]) -> None:
    """Loss and every gradient stay equal bit for bit where all new memory is NaN: blocks, caching, loss."""
    results = []
    for poisoned in (False, True):
        encoder = encoder_of(tmp_path, family, fast=True, lora={}, autocast=autocast, **model)
        if poisoned:
            with new_memory_is_nan():
                results.append(step(encoder, share=bool(model)))
        else:
            results.append(step(encoder, share=bool(model)))
    (loss, expected, _), (found_loss, found, _) = results
    assert found_loss == loss
    assert all(torch.equal(found[name], value) for name, value in expected.items())
