"""What the devices that torch knows can do: which one is used, its 16-bit dtypes, its memory, its random numbers.

CUDA (and ROCm, which torch calls cuda), Apple's mps and Intel's xpu are reached through `torch.accelerator`; only what
it lacks is asked of a device's own module here. Nothing of this has run on an accelerator yet.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from dec2vec.errors import UserError

DeviceName = Literal["auto", "cpu", "cuda", "mps", "xpu"]
AutocastSetting = Literal["auto", "on", "off", "float16"]
FLOAT16_CAPABILITY, BFLOAT16_CAPABILITY = (7, 0), (8, 0)
"""CUDA's compute capabilities from which products in the dtype have units of their own: Volta and Ampere."""


def resolve_device(name: str) -> torch.device:
    """The device of that name; `auto` is the machine's accelerator, or the CPU."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return torch.device("cpu") if found is None else torch.device(found.type)
    if name != "cpu" and (found is None or found.type != name):
        here = "no accelerator" if found is None else found.type
        raise UserError(f"device {name}: this machine has {here}; use --device cpu (or model.device cpu)")
    return torch.device(name)


def autocast_dtype(setting: str, device: torch.device) -> torch.dtype | None:
    """The dtype of matrix products under autocast; None without autocast.

    `auto` is bfloat16 where the device has it natively, which is 4x faster on such CPUs (2-4x slower on others), and
    float16 on CUDA devices that have only that, such as a T4. Emulated bfloat16 is never chosen.
    """
    match setting:
        case "off":
            return None
        case "on":
            return torch.bfloat16
        case "float16":
            return torch.float16
    match device.type:
        case "cpu":
            native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
            return torch.bfloat16 if native else None
        case "cuda":
            return _of_cuda(device)
        case "xpu":
            return torch.bfloat16
        case _:
            return None


def _of_cuda(device: torch.device) -> torch.dtype | None:
    """`torch.cuda.is_bf16_supported` counts emulation, which is slower than float32."""
    if torch.version.hip is not None:
        return torch.bfloat16
    capability = torch.cuda.get_device_capability(device)
    if capability >= BFLOAT16_CAPABILITY:
        return torch.bfloat16
    return torch.float16 if capability >= FLOAT16_CAPABILITY else None


def has_flash_attention(device: torch.device) -> bool:
    """Whether torch's flash kernels run there: CUDA from compute capability 8.0, and ROCm."""
    if device.type != "cuda":
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY


def allow_cudnn_attention(*, allowed: bool) -> None:
    """Whether attention may use cuDNN, which torch prefers on Hopper and Blackwell: `model.attention` decides.

    cuDNN makes an execution plan for each new shape, at 25 to 500 ms each, and chunks of texts hardly ever repeat a
    shape. The setting is the process's. It means nothing where there is no CUDA.
    """
    torch.backends.cuda.enable_cudnn_sdp(allowed)


def use_local_accelerator() -> None:
    """On a machine with several accelerators, make this process use the one of its rank."""
    if "LOCAL_RANK" in os.environ and torch.accelerator.is_available():
        count = torch.accelerator.device_count()
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]) % count)


def synchronize(device: torch.device) -> None:
    """Wait until the device has computed everything; a CPU always has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def free_device_bytes(device: torch.device) -> int:
    """What an accelerator can still give to tensors, what its allocator holds in reserve included."""
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    free, _ = torch.accelerator.get_memory_info(device)
    return int(free) + torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)


def own_device_bytes(device: torch.device) -> int:
    """What this process's tensors take on an accelerator."""
    if device.type == "mps":
        return int(torch.mps.current_allocated_memory())
    return int(torch.accelerator.memory_allocated(device))


def peak_bytes(device: torch.device) -> int:
    """The most memory that tensors have held: on the accelerator, or of the process on a CPU (and with mps)."""
    if device.type in ("cpu", "mps"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(torch.accelerator.max_memory_allocated(device))


def random_state(device: torch.device) -> Tensor | None:
    """The state of the accelerator's generator; a CPU's is torch's own."""
    state: Tensor | None = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
    return state


@contextlib.contextmanager
def random_numbers_put_back(device: torch.device) -> Iterator[None]:
    """What is drawn within, on the CPU and the device, leaves no trace in what is drawn afterwards."""
    devices = [] if device.type == "cpu" else [device]
    kind = "cuda" if device.type == "cpu" else device.type
    with torch.random.fork_rng(devices=devices, device_type=kind):
        yield


def restore_random_state(device: torch.device, state: Tensor | None) -> None:
    """Set the accelerator's generator to what `random_state` returned."""
    if state is not None:
        torch.get_device_module(device).set_rng_state(state, device)
