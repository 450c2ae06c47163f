"""Keep freed memory in the process: on CPUs the page faults of fresh memory cost more than the arithmetic on it."""

from __future__ import annotations

import ctypes
import platform

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
