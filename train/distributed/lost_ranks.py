"""Turn a collective's failure into one line (which rank, after which step), and make sure that the process exits."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dec2vec.errors import TryAgain
from train.config import TrainConfig

PATIENCE = 20
"""Seconds in which a rank must exit by itself once it has lost another one."""
_CLOSED = re.compile(r"closed by peer|reset by peer|broken pipe|remote process exit", re.I)
_REFUSED = re.compile(r"connection refused", re.I)
_SILENT = re.compile(r"timed? ?out|no route to host|unreachable|failed to connect", re.I)
_OWN_KERNEL = re.compile(r"(CUDA|HIP) error:")
_OLD_STORE = "torchrun's store (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 creates a new one for each restart)"
_ADDRESS = re.compile(r"\[([0-9a-f.:]+)\]:\d+")


@dataclass
class Contact:
    """How far this rank has come, for the message that it may have to write."""

    step: Callable[[], int] | None = None
    """Returns the number of finished steps; None before there is a run that counts them."""

    @property
    def moment(self) -> str:
        return "while starting" if self.step is None else f"after step {self.step()}"


@contextlib.contextmanager
def lost_rank_message(config: TrainConfig) -> Iterator[Contact]:
    """Within, a collective that fails because a process or host is gone raises TryAgain.

    Under NCCL the watchdog may abort the process first, with a message of its own.
    """
    contact = Contact()
    try:
        yield contact
    except RuntimeError as error:
        reason = why_lost(str(error), config.distributed.timeout)
        if reason is None or "RANK" not in os.environ:
            raise
        _end_soon()
        rank, world = (os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE"))
        raise TryAgain(
            f"rank {rank} of {world}, {contact.moment}: {reason}; the same command resumes from the last checkpoint in "
            f"{config.output_dir}/checkpoints (torchrun --max-restarts N does this automatically)"
        ) from error


def why_lost(message: str, timeout: float) -> str | None:
    """What a collective's error says about other processes; None if it is about something else.

    "The launch timed out" is what CUDA says of a kernel of this process's own.
    """
    if _OWN_KERNEL.search(message):
        return None
    address = _ADDRESS.search(message)
    peer = f"a process on {address.group(1)}" if address else "another process"
    if _CLOSED.search(message):
        return f"lost {peer}, which closed the connection (it exited or was killed)"
    if _REFUSED.search(message):
        return f"{peer} refused the connection; if it exited, its address was still in {_OLD_STORE}"
    if _SILENT.search(message):
        return f"no response from {peer} for {timeout:g} s (distributed.timeout): it hangs or its host is disconnected"
    return None


def _end_soon() -> None:
    """Let the kernel end the process: threads of a broken process group may keep the interpreter from exiting."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE)
