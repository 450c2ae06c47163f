"""Numbers below 1e-38 are zero where it is asked for, in every thread of torch, and training does not see it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dec2vec.runtime import flushed
from tests.test_fast_blocks import encoder_of
from tests.test_gradcache import close
from tests.test_prefix_gradient import step

_THREADS = """
import os
import torch
from dec2vec.runtime import flushed, start_threads_flushed
for start in (True, False):
    if os.fork() == 0:  # neither has the threads that the other starts
        if start:
            assert start_threads_flushed()
        tiny = torch.full((1 << 20,), 1e-30)
        outside = int((tiny * 1e-10 == 0).sum())
        with flushed():
            inside = int((tiny * 1e-10 == 0).sum())
        print(outside, inside, torch.get_num_threads(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_only_inside() -> None:
    tiny = torch.tensor([1e-30])
    assert float(tiny * 1e-10) > 0
    with flushed() as can:
        assert float(tiny * 1e-10) == 0 or not can
        with flushed(on=False):
            assert float(tiny * 1e-10) == 0 or not can
    assert float(tiny * 1e-10) > 0


def test_every_thread() -> None:
    """The calling thread changes its mode; without a start of the threads in it they keep theirs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    command = [sys.executable, "-c", _THREADS]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    started, not_started = ([int(number) for number in line.split()] for line in output.splitlines())
    whole = 1 << 20
    assert started == [whole // 2, whole, 2]
    assert not_started == [0, whole // 2, 2]


@pytest.mark.parametrize("fast", [True, False])
def test_equal_loss_and_gradients(tmp_path: Path, fast: bool) -> None:
    """Where attention is as good as all on one token, so that such numbers are there at all."""
    results = []
    for on in (False, True):
        encoder = encoder_of(tmp_path, fast=fast, lora={})
        with torch.no_grad():
            for name, parameter in encoder.embedder.named_parameters():
                if "q_proj.base_layer" in name:
                    parameter *= 60
        with flushed(on=on):
            results.append(step(encoder, share=False))
    (loss, expected, _), (found_loss, found, _) = results
    assert found_loss == pytest.approx(loss, rel=1e-5) and close(found, expected)
