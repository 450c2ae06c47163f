"""The training step on a CUDA device: fast paths against plain ones, and the same numbers as on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.test_fast_blocks import encoder_of, ran
from tests.test_prefix_gradient import PROMPT, step
from tests.training_setup import distance
from train.adapters.capabilities import leave_out_padding
from train.distributed.single import Single

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.mark.parametrize("share", [False, True])
def test_fast_equals_plain_and_a_cpu(tmp_path: Path, share: bool) -> None:
    results = []
    for device, fast in (("cpu", False), ("cuda", False), ("cuda", True)):
        encoder = encoder_of(tmp_path, fast=fast, lora={}, prompt=PROMPT, max_length=100, device=device)
        loss, found, _ = step(encoder, share=share and fast)
        results.append((loss, {name: gradient.cpu() for name, gradient in found.items()}))
    for loss, found in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-4)
        assert distance(found, results[0][1]) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("share", [False, True])
def test_fast_under_autocast_is_as_near_to_float32_as_plain(tmp_path: Path, dtype: str, share: bool) -> None:
    found = []
    for autocast, fast in (("off", False), ("on", False), ("on", True)):
        options = {"prompt": PROMPT, "max_length": 100, "dtype": dtype, "autocast": autocast}
        encoder = encoder_of(tmp_path, "qwen3", fast=fast, lora={}, device="cuda", **options)
        if autocast == "off":
            encoder.embedder.float()
        found.append(step(encoder, share=share and fast)[1])
        assert ran(encoder) == fast
    exact, plain, fast_one = found
    assert distance(fast_one, exact) < max(0.05, 2 * distance(plain, exact))


@pytest.mark.parametrize("model", [{}, {"pooling": "mean"}, {"layer": 1}])
def test_texts_end_to_end_equal_padded_rows(tmp_path: Path, model: dict[str, object]) -> None:
    """In bfloat16, whose products have a relative error of 1/256; the float32 gradient says how far off padding is."""
    encoder = encoder_of(tmp_path, "qwen3", fast=True, lora={}, device="cuda", autocast="on", **model)
    exact = encoder_of(tmp_path, "qwen3", fast=True, lora={}, device="cuda", **model)
    expected_loss, expected, _ = step(exact, share=False)
    loss, padded, _ = step(encoder, share=False)
    leave_out_padding(Single(encoder.embedder))
    assert encoder.embedder.unpadded, "torch 2.11 or later has the kernel"
    found_loss, found, _ = step(encoder, share=False)
    assert found_loss == pytest.approx(loss, rel=2e-2) and found_loss == pytest.approx(expected_loss, rel=2e-2)
    assert distance(found, expected) < max(0.1, 2 * distance(padded, expected))
