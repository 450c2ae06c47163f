"""Numbers too small for a float's full precision (below 1e-38) as zero: CPUs take 50 times as long for them.

They are common where it matters: a trained decoder attends to few tokens, and the gradient of the pooled vector at all
the others falls by orders of magnitude a layer. Nothing that small is seen in a sum with gradients of usual size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

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
