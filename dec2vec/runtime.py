"""Keep freed memory in the process: on CPUs the page faults of fresh memory cost more than the arithmetic on it."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGE = 1 << 30


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from its heap and not to give them back; False with another C library.

    A training step frees and asks for the same few hundred MiB again and again. By default each of these blocks is a
    mapping of its own, which the kernel must fill with zeros anew.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    options = ((_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    accepted = [libc.mallopt(option, value) == 1 for option, value in options]
    return all(accepted)


_ENOUGH_FOR_ALL_THREADS = 1 << 17
"""Elements a thread, so that torch gives each of its threads a part."""


def start_threads_flushed() -> bool:
    """Make torch's threads with the mode on, which they then keep; False on a processor that has none.

    A thread has the mode of the one that starts it, so this must come before torch's first work in parallel. The
    calling thread itself stays as it was, because numpy warns wherever it finds the mode on: see `flushed`.
    """
    with flushed() as has_mode:
        torch.ones(_ENOUGH_FOR_ALL_THREADS * torch.get_num_threads()).add_(1.0)
    return has_mode


def is_flushed() -> bool:
    """Whether the calling thread is inside `flushed`."""
    return float(torch.tensor(1e-30) * 1e-10) == 0.0


@contextlib.contextmanager
def flushed(*, on: bool = True) -> Iterator[bool]:
    """The calling thread's arithmetic without such numbers; whether the processor can."""
    has_mode = on and torch.set_flush_denormal(True)
    try:
        yield has_mode
    finally:
        if has_mode:
            torch.set_flush_denormal(False)
