"""Settings of the process that make CPU computation faster: keep freed memory, flush denormal numbers."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import io
import logging
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGE = 1 << 30
_NO_MEMORY = re.compile("can't allocate memory|not enough memory")


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


def give_back_freed_memory() -> None:
    """Give memory that was freed and kept back to the system, so that other programs can have it."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. The CPU allocator raises a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


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


def keep_memory_as_usual() -> None:
    """Undo `keep_freed_memory`: glibc's usual settings, and the memory that is free goes back to the system."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((_M_MMAP_THRESHOLD, 128 << 10), (_M_TRIM_THRESHOLD, 128 << 10), (_M_TOP_PAD, 0)):
            libc.mallopt(option, value)
        libc.malloc_trim(0)


class LineWriter:
    """Writes what tqdm shows as lines on standard error, where it would go back to the start of one."""

    def write(self, text: str) -> None:
        line = text.strip()
        if line:
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


LINE_SECONDS = 10.0
_DELAY = 3.0
_LINE = "{desc}: {n_fmt} of {total_fmt}, {remaining} left"


def bar_options(*, shown: bool = True) -> dict[str, Any]:
    """How tqdm shows what takes more than a few seconds: as a bar on a terminal and in a notebook, and in a log file as
    a line every ten seconds."""
    options: dict[str, Any] = {"delay": _DELAY, "leave": False, "disable": not shown}
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        options |= {"file": LineWriter(), "mininterval": LINE_SECONDS, "bar_format": _LINE}
    return options


@contextlib.contextmanager
def left_as_found() -> Iterator[None]:
    """Within, a run may change what belongs to the whole process; afterwards it is as before.

    These are torch's random numbers and attention kernels, the environment, warnings, the levels and handlers of logs,
    and the state of Accelerate, of which a process has one. Threads of torch that the run has started stay
    (`start_threads_flushed`).
    """
    environment, field_size = dict(os.environ), csv.field_size_limit()
    cudnn_attention = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    accelerator = torch.accelerator.current_accelerator()
    devices, kind = range(torch.accelerator.device_count()), "cuda" if accelerator is None else accelerator.type
    with _own_accelerate(), _own_logs(), torch.random.fork_rng(devices, device_type=kind), warnings.catch_warnings():
        try:
            yield
        finally:
            torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)
            csv.field_size_limit(field_size)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)


@contextlib.contextmanager
def _own_accelerate() -> Iterator[None]:
    """Within, Accelerate decides on device and processes anew, whatever it decided before."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    shared = [state._shared_state for state in (AcceleratorState, PartialState, GradientState)]
    saved = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        yield
    finally:
        for state, content in zip(shared, saved, strict=True):
            state.clear()
            state.update(content)


@contextlib.contextmanager
def _own_logs() -> Iterator[None]:
    """Within, levels and handlers of the root and of `train` may be changed."""
    loggers = [logging.getLogger(), logging.getLogger("train")]
    saved = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    try:
        yield
    finally:
        for logger, level, handlers in saved:
            logger.setLevel(level)
            logger.handlers[:] = handlers
