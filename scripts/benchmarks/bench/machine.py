"""What this machine can do, and what a process has used of it."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path

import torch


def bfloat16_units() -> bool:
    """Whether products in bfloat16 are faster than in float32 here."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def matmul_peak(precision: str, size: int = 1536, rounds: int = 5) -> float:
    """The best rate of a square product in operations a second: what model FLOP/s are measured against."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = size * 4 if device == "cuda" else size
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(rounds + 1):
        _wait()
        started = time.perf_counter()
        torch.mm(left, right)
        _wait()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_memory() -> int:
    """Bytes: of the CUDA allocator, else the most that this process has held (its children and parent apart)."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def limit_memory(share: float = 0.8) -> None:
    """Allocations beyond this share of what is free fail with an error, before the kernel ends some process."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
        limit = int(int(line.split()[1]) * 1024 * share)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def description() -> dict[str, object]:
    """Enough to read a figure later."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Clock:
    """Wall and processor seconds since it was made; the device has finished when either is read."""

    def __init__(self) -> None:
        _wait()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both, in seconds."""
        _wait()
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": time.process_time() - self._cpu}
