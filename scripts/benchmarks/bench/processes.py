"""A side in a process of its own, so that its peak memory is its own; the parent says when it steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bench.work import PositionCounter, Side, Work


class Local:
    """A side in this process: what a worker does, without one."""

    def __init__(self, kind: str, work: Work) -> None:
        from bench.machine import peak_memory

        self._side = make_side(kind, work)
        self._counter = PositionCounter(self._side.backbone())
        self._start = peak_memory()

    def step(self, number: int) -> dict[str, float]:
        """Time of a step, the positions it ran, and this process's memory at the start and its peak."""
        from bench.machine import Clock, peak_memory

        before = (self._counter.forward, self._counter.differentiated)
        clock = Clock()
        self._side.step(number)
        times = clock.read()
        return {
            **times,
            "forward": self._counter.forward - before[0],
            "differentiated": self._counter.differentiated - before[1],
            "start_memory": self._start,
            "peak_memory": peak_memory(),
        }

    def first_gradients(self, number: int) -> dict[str, NDArray[Any]]:
        """Take a step and return its gradients."""
        self._side.keeps = True
        self._side.step(number)
        self._side.keeps = False
        return self._side.gradients()

    def token_ids(self, number: int) -> list[list[int]]:
        """What the decoder reads of a batch."""
        return self._side.token_ids(number)

    def close(self) -> None:
        """Nothing to end."""


class Worker:
    """A side in a child process, driven by one line of JSON a command."""

    def __init__(self, kind: str, work: Work, script: str, scratch: Path, *, limited: bool = False) -> None:
        self._scratch = scratch
        command = [
            sys.executable,
            script,
            "--worker",
            kind,
            "--work",
            work.dumps(),
            *(["--limited"] if limited else []),
        ]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self, number: int) -> dict[str, float]:
        """Time and use of a step; MemoryError when the side found no memory."""
        times: dict[str, float] = self._ask({"do": "step", "number": number})
        return times

    def first_gradients(self, number: int) -> dict[str, NDArray[Any]]:
        """Take a step and return its gradients."""
        file = self._scratch / f"gradients-{self._child.pid}.npz"
        self._ask({"do": "gradients", "number": number, "file": str(file)})
        with np.load(file) as arrays:
            return dict(arrays)

    def token_ids(self, number: int) -> list[list[int]]:
        """What the decoder reads of a batch."""
        ids: list[list[int]] = self._ask({"do": "token_ids", "number": number})["ids"]
        return ids

    def close(self) -> None:
        """End the process."""
        self._pipe(self._child.stdin).close()
        self._child.wait()

    def _ask(self, command: dict[str, object]) -> dict[str, Any]:
        pipe = self._pipe(self._child.stdin)
        pipe.write(json.dumps(command) + "\n")
        pipe.flush()
        line = self._pipe(self._child.stdout).readline()
        if not line:
            raise SystemExit(f"a side ended with exit code {self._child.wait()}; its message is above")
        answer: dict[str, Any] = json.loads(line)
        if "out_of_memory" in answer:
            raise MemoryError
        return answer

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def make_side(kind: str, work: Work) -> Side:
    """ours or peer. Only the asked one is imported: a process's memory is one product's."""
    if kind == "ours":
        from bench.ours import Ours

        return Ours(work)
    from bench.peer import Peer

    return Peer(work)


def serve(kind: str, work: Work, *, limited: bool) -> None:
    """The child: answers commands until its input ends. What libraries print goes to stderr."""
    from bench.machine import limit_memory

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if limited:
        limit_memory()
    local = Local(kind, work)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = _answer(local, command)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise
            answer = {"out_of_memory": 1.0}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(local: Local, command: dict[str, Any]) -> dict[str, Any]:
    match command["do"]:
        case "gradients":
            np.savez(command["file"], **local.first_gradients(command["number"]))  # type: ignore[arg-type]
            return {}
        case "token_ids":
            return {"ids": local.token_ids(command["number"])}
        case _:
            return dict(local.step(command["number"]))
