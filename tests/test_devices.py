"""Which device and which 16-bit dtype are chosen, on devices that are only pretended here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from dec2vec import ModelConfig
from dec2vec.decoder import devices
from dec2vec.decoder.devices import autocast_dtype, has_flash_attention, resolve_device
from dec2vec.errors import UserError
from tests.helpers import tiny_model_folder
from train.config import TrainConfig
from train.resolve import resolve

ROOT = Path(__file__).parents[1]
CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("capability", "expected", "flash"),
    [
        ((6, 1), None, False),  # P40: neither dtype has units
        ((7, 0), torch.float16, False),  # V100
        ((7, 5), torch.float16, False),  # T4
        ((8, 0), torch.bfloat16, True),  # A100
        ((9, 0), torch.bfloat16, True),  # H100
    ],
)
def test_bfloat16_only_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype | None, flash: bool
) -> None:
    """`torch.cuda.is_bf16_supported` says yes to a T4 as well, where bfloat16 is emulated."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert autocast_dtype("auto", CUDA) == expected and has_flash_attention(CUDA) == flash
    assert autocast_dtype("on", CUDA) == torch.bfloat16 and autocast_dtype("float16", CUDA) == torch.float16
    assert autocast_dtype("off", CUDA) is None


def test_amd_intel_and_apple(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert autocast_dtype("auto", CUDA) == torch.bfloat16 and has_flash_attention(CUDA)
    assert autocast_dtype("auto", torch.device("xpu")) == torch.bfloat16
    assert autocast_dtype("auto", torch.device("mps")) is None
    assert not has_flash_attention(torch.device("mps"))


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_the_accelerator_is_chosen(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device(kind))
    assert resolve_device("auto") == torch.device(kind) == resolve_device(kind)
    assert resolve_device("cpu") == torch.device("cpu")
    other = {"cuda": "mps", "mps": "xpu", "xpu": "cuda"}[kind]
    with pytest.raises(UserError, match=rf"device {other}: this machine has {kind}; use --device cpu"):
        resolve_device(other)


@pytest.mark.parametrize(("rank", "dtype"), [("0", "float16"), ("1", "on"), ("3", "on"), (None, "float16")])
def test_each_rank_asks_its_own_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: str | None, dtype: str
) -> None:
    """Of a T4 and an H100; without a rank it is the device that torch uses, which is the first."""
    current, asked, capabilities = [0], [], {0: (7, 5), 1: (9, 0)}

    def capability(device: torch.device) -> tuple[int, int]:
        asked.append(current[0] if device.index is None else device.index)
        return capabilities[asked[-1]]

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: CUDA)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: current.__setitem__(0, index))
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    tiny_model_folder(tmp_path)
    model = resolve(TrainConfig(model=ModelConfig(name_or_path=str(tmp_path)))).model
    assert (model.device, model.autocast) == ("cuda", dtype)
    assert asked and set(asked) == {int(rank or 0) % 2}


def test_without_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match=r"device cuda: this machine has no accelerator; use --device cpu"):
        resolve_device("cuda")


def test_cudnn_attention_only_where_it_is_asked_for() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        for allowed in (True, False):
            devices.allow_cudnn_attention(allowed=allowed)
            assert torch.backends.cuda.cudnn_sdp_enabled() == allowed
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_memory_of_an_accelerator_counts_what_its_allocator_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (10, 100))
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda device: 7)
    monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda device: 4)
    assert devices.free_device_bytes(CUDA) == 13


def test_torch_cuda_is_called_in_one_file_only() -> None:
    """So that other accelerators are not forgotten; `torch.backends.cuda` has settings that mean nothing elsewhere."""
    callers = {
        path.relative_to(ROOT).as_posix()
        for folder in ("dec2vec", "train", "eval")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"torch\.cuda\b|\.is_cuda\b", path.read_text(encoding="utf-8"))
    }
    assert callers == {"dec2vec/decoder/devices.py"}
