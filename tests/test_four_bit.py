"""LoRA on a 4-bit base (QLoRA), in one process and in shards.

The product takes 4-bit weights on CUDA alone; bitsandbytes can do the same products on a CPU, slowly, and so here.
"""

from __future__ import annotations

import importlib
import importlib.util
import unittest.mock
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dec2vec.encoder import Encoder
from tests.processes import run_alone, run_ranks
from tests.test_engines import Case, Outcome, all_cases
from tests.test_prefix_gradient import step
from tests.training_setup import distance, tiny_encoder
from train.adapters.lora import trainable_parameters
from train.config import LoraConfig

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install bitsandbytes"
)
CASES = {"4-bit base": Case(model={"load_in_4bit": True, "dtype": "bfloat16"}, lora={"fused": False})}


@contextmanager
def four_bits_on_a_cpu() -> Iterator[None]:
    """Without the kernel for inference alone, which bitsandbytes packs the weights anew for."""
    modules = importlib.import_module("bitsandbytes.nn.modules")
    with (
        unittest.mock.patch("dec2vec.decoder.load._check_kernels"),
        unittest.mock.patch.object(modules, "has_avx512bf16", lambda: False),
    ):
        yield


def four_bit_cases(folder: Path, sharded: bool) -> dict[str, Outcome]:
    with four_bits_on_a_cpu(), unittest.mock.patch.dict("tests.test_engines.CASES", CASES):
        return all_cases(folder, list(CASES), sharded)


def gradient(encoder: Encoder) -> dict[str, Tensor]:
    _, found, _ = step(encoder, share=False)
    return found


def three_gradients(folder: Path) -> list[dict[str, Tensor]]:
    """With 4-bit weights, with what they stand for in float32, and with the weights as they were."""
    functional = importlib.import_module("bitsandbytes.functional")
    lora = LoraConfig(rank=4, alpha=8, fused=False)
    with four_bits_on_a_cpu():
        packed = tiny_encoder(folder, lora=lora, device="cpu", load_in_4bit=True)
    for module in packed.embedder.modules():
        if type(module).__name__ == "Linear4bit":
            vars(module)["compute_dtype"] = torch.float32  # as in the model that it is compared with
    meant, plain = (tiny_encoder(folder, lora=lora, device="cpu") for _ in range(2))
    weights = dict(packed.embedder.named_parameters())
    parted = [name for name, weight in weights.items() if type(weight).__name__ == "Params4bit"]
    assert len(parted) == 7 * meant.embedder.layer_count
    with torch.no_grad():
        for name in parted:
            state = vars(weights[name])["quant_state"]
            meant.embedder.get_parameter(name).copy_(functional.dequantize_4bit(weights[name].data, state))
        for name, weight in trainable_parameters(packed.embedder).items():  # begin as 16 bits hold them
            meant.embedder.get_parameter(name).copy_(weight)
            plain.embedder.get_parameter(name).copy_(weight)
    return [gradient(encoder) for encoder in (packed, meant, plain)]


def test_gradients_are_those_of_the_weights_that_the_bits_stand_for(tmp_path: Path) -> None:
    tiny_encoder(tmp_path)
    packed, meant, plain = run_alone(three_gradients, tmp_path)
    assert distance(packed, meant) < 1e-4
    assert distance(plain, meant) > 0.1


def test_sharded_steps_equal_those_of_ddp(tmp_path: Path) -> None:
    tiny_encoder(tmp_path)
    (shards, _), (ddp, _) = (run_ranks(2, four_bit_cases, tmp_path, sharded) for sharded in (True, False))
    for name, found in shards.items():
        assert found.losses == pytest.approx(ddp[name].losses, rel=1e-6)
        assert found.norms == pytest.approx(ddp[name].norms, rel=1e-5)
        assert distance(found.weights, ddp[name].weights) < 1e-5
        assert {calls["reduce_scatter_single"] for calls in found.calls} == {3}, "once a step and unit"
