"""Several ranks for a test: forked processes with a gloo group (0.3 s; spawned ones import torch anew, 10 s)."""

from __future__ import annotations

import datetime
import faulthandler
import gc
import os
import pickle
import signal
import socket
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState
from tqdm import tqdm

T = TypeVar("T")
STUCK = 120.0
"""Seconds after which a process says on stderr where it is."""
IMPORTED_LATE = (
    "eval.dev.tasks",
    "eval.inputs",
    "eval.report.notes",
    "train.distributed.lost_ranks",
    "train.export.save",
    "train.finish",
    "train.export.push",
    "train.build",
    "train.loop.fit",
    "train.resolve",
    "dec2vec.runtime",
    "peft.utils.transformers_weight_conversion",
)
"""What the trainer imports only once it knows that it will run."""

for _name in IMPORTED_LATE:
    import_module(_name)  # once here, not a second and more in each of hundreds of forked runs


def run_ranks(world: int, function: Callable[..., T], *arguments: object, limit: float = 240.0) -> list[T]:
    """`function(*arguments)` in `world` processes of one gloo group; what each rank returned, in rank order.

    The first rank to fail ends them all, with its traceback; so does the time limit. Nothing that happens in the
    ranks (random state, environment, Accelerate's singletons, patches) reaches this process.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _collect(_start(world, Path(folder) / "store", function, arguments), limit)


def run_alone(function: Callable[..., T], *arguments: object, limit: float = 240.0) -> T:
    """The same in one process without a group."""
    (result,) = _collect(_start(1, None, function, arguments), limit)
    return result


def exit_code_alone(function: Callable[..., object], *arguments: object, limit: float = 240.0) -> int:
    """For functions that may kill their process: 0, or minus the signal; an exception is raised here."""
    ((process, end),) = _start(1, None, function, arguments)
    process.join(limit)
    if process.is_alive():
        _kill([process])
        raise AssertionError(f"the process did not end within {limit:.0f} s")
    if process.exitcode == 0:
        _received(end, 0)
    return process.exitcode or 0


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _start(
    world: int, store: Path | None, function: Callable[..., Any], arguments: Sequence[object]
) -> list[tuple[ForkProcess, Connection]]:
    if torch.cuda.is_initialized():
        raise RuntimeError("CUDA does not survive a fork")
    context = get_context("fork")
    started = []
    with warnings.catch_warnings():
        # Python 3.12 and later warn when a process with threads forks; ours hold no lock that a child needs
        warnings.simplefilter("ignore", DeprecationWarning)
        for rank in range(world):
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(theirs, rank, world, store, function, arguments), daemon=True)
            process.start()
            theirs.close()
            started.append((process, mine))
    return started


def _work(
    end: Connection,
    rank: int,
    world: int,
    store: Path | None,
    function: Callable[..., object],
    arguments: Sequence[object],
) -> None:
    """In the forked process. The parent's OpenMP threads are gone here: one thread needs none of them."""
    gc.freeze()  # a collection would touch, and so copy, the memory of everything that the parent has imported
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["OMP_NUM_THREADS"] = "1"
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test of this process may have made one
    GradientState._reset_state()
    tqdm.set_lock(threading.RLock())  # the inherited one may be held by a thread that this process does not have
    tqdm.monitor_interval = 0
    faulthandler.dump_traceback_later(STUCK, exit=False)
    try:
        if store is not None:
            _join_group(rank, world, store)
        end.send_bytes(pickle.dumps((True, function(*arguments))))
    except BaseException:
        end.send_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        if dist.is_initialized():
            gc.collect()  # a DDP model must not outlive its group: train.finish.leave
            dist.destroy_process_group()
        faulthandler.cancel_dump_traceback_later()


def _join_group(rank: int, world: int, store: Path) -> None:
    """As torchrun does, so that Accelerate finds the group; the master's address is never used."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )


def _collect(started: Sequence[tuple[ForkProcess, Connection]], limit: float) -> list[Any]:
    rank_of = {end: rank for rank, (_, end) in enumerate(started)}
    results: dict[int, Any] = {}
    deadline = time.monotonic() + limit
    try:
        while len(results) < len(started):
            waiting = [end for end, rank in rank_of.items() if rank not in results]
            ready = wait(waiting, max(0.0, deadline - time.monotonic()))
            if not ready:
                raise AssertionError(f"ranks {sorted(rank_of[end] for end in waiting)} took longer than {limit:.0f} s")
            for end in ready:
                assert isinstance(end, Connection)
                results[rank_of[end]] = _received(end, rank_of[end])
        for process, _ in started:
            process.join(max(1.0, deadline - time.monotonic()))
    finally:
        _kill([process for process, _ in started])
    return [results[rank] for rank in range(len(started))]


def _received(end: Connection, rank: int) -> Any:
    try:
        succeeded, value = pickle.loads(end.recv_bytes())
    except EOFError:
        raise AssertionError(f"rank {rank} died without a word") from None
    if not succeeded:
        raise AssertionError(f"rank {rank} failed:\n{value}")
    return value


def _kill(processes: Sequence[ForkProcess]) -> None:
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
