"""Settings of the process that make CPU computation faster: keep freed memory, flush denormal numbers."""

from __future__ import annotations

import contextlib
import ctypes
import io
import platform
from collections.abc import Iterator

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGE = 1 << 30


def keep_freed_memory() -> bool:
    """Make glibc serve large blocks from its heap and keep them when they are freed. False with another C library.

    A training step frees and requests the same few hundred MiB again and again. By default each of these blocks is a
    mapping of its own, which the kernel fills with zeros, and the page faults cost more than the arithmetic.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    options = ((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    accepted = [libc.mallopt(option, value) == 1 for option, value in options]
    return all(accepted)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within, a library is imported, and what it prints is dropped: transformers' Trainer prints W&B's mode."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


_ENOUGH_FOR_ALL_THREADS = 1 << 17
"""Number of elements per thread with which torch gives each of its threads a part."""


def start_threads_flushed() -> bool:
    """Start torch's threads in a mode that flushes denormals. False if the processor has no such mode.

    A thread inherits the mode of the thread that starts it, so this must be called before torch first computes in
    parallel. The calling thread keeps its mode, because numpy warns if it finds denormals flushed; see `flushed`.
    """
    with flushed() as has_mode:
        torch.ones(_ENOUGH_FOR_ALL_THREADS * torch.get_num_threads()).add_(1.0)
    return has_mode


def is_flushed() -> bool:
    """Whether the calling thread flushes denormals."""
    return float(torch.tensor(1e-30) * 1e-10) == 0.0


@contextlib.contextmanager
def flushed(*, on: bool = True) -> Iterator[bool]:
    """Flush denormals in the calling thread. The value is False if the processor can't."""
    has_mode = on and torch.set_flush_denormal(True)
    try:
        yield has_mode
    finally:
        if has_mode:
            torch.set_flush_denormal(False)
