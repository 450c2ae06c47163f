"""`torchrun -m dec2vec train` over some hosts into one run folder, with its processes and its progress in sight."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from hosts.engines import ENGINES
from hosts.network import Host
from train.tracking.metrics_file import read_metrics, step_of

PORT = 29400
MAX_STARTS = 4
POLL = 0.02
"""Seconds between two looks at a run."""
_EXIT = re.compile(r"failed \(exitcode: (-?\d+)\)")


@dataclass
class Launch:
    """A run; within `with` it is started, and ended with all its processes."""

    hosts: Sequence[Host]
    processes: int
    """On each host."""
    folder: Path
    arguments: Sequence[str]
    """Of `python -m dec2vec train`."""
    restarts: int = 3
    pinned: bool = False
    """Each process to a core, the ranks in turn."""
    engine: str = "ddp"
    join_timeout: int = 300
    """Seconds that a torchrun waits for the other host."""
    by_hand: bool = False
    """A torchrun that gives up is not started again, but by `start`."""
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)
    starts: int = 0
    """How often a torchrun was started again because it had given up itself."""
    _logs: list[IO[bytes]] = field(default_factory=list)

    def __enter__(self) -> Launch:
        shutil.rmtree(self.folder, ignore_errors=True)  # of an earlier check
        self.folder.mkdir(parents=True)
        for host in self.hosts:
            self._logs.append(self.log(host).open("wb"))
        self.start()
        return self

    def start(self) -> None:
        """torchrun on each host; all earlier ones have ended."""
        self.agents = [self._start(position) for position in range(len(self.hosts))]

    def end_agents(self, seconds: float) -> str:
        """Wait for the torchruns that still run, and end those that don't end by themselves; what had to be done."""
        began = time.monotonic()
        try:
            for agent in self.agents:
                agent.wait(max(0.0, began + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            for agent in self.agents:
                agent.terminate()
                agent.wait()
            return f"had to be ended by hand {seconds:.0f} s after the hosts were reconnected"
        return f"ended {time.monotonic() - began:.0f} s after the hosts were reconnected"

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for agent in self.agents:
            for pid in [*_children(agent.pid), agent.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            agent.wait()
        for log in self._logs:
            log.close()

    def log(self, host: Host) -> Path:
        """What the processes of a host said."""
        return self.folder.with_name(f"{self.folder.name}-{host.name}.log")

    def workers(self) -> dict[int, int]:
        """Process id of each rank that lives."""
        found = {}
        for agent in self.agents:
            for pid in _children(agent.pid):
                with contextlib.suppress(OSError, KeyError, ValueError):
                    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                    pairs = dict(word.split(b"=", 1) for word in words if b"=" in word)
                    found[int(pairs[b"RANK"])] = pid
        return found

    def steps(self) -> int:
        """Finished steps that are logged."""
        path = self.folder / "metrics.jsonl"
        return max(map(step_of, read_metrics(path)), default=0) if path.exists() else 0

    def until(self, holds: Callable[[], bool], seconds: float) -> float:
        """Wait until `holds()`; the moment. A torchrun that ended with an error is started again, as a service is."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise SystemExit(f"waited {seconds:.0f} s in vain; see {self.folder}-*.log")
            self._start_again()
            time.sleep(POLL)
        return time.monotonic()

    def finish(self, seconds: float) -> float:
        """Wait until all hosts' torchruns are done; the moment."""
        return self.until(self.done, seconds)

    def done(self) -> bool:
        """Whether all hosts' torchruns have ended well."""
        return all(agent.poll() == 0 for agent in self.agents)

    @property
    def weights(self) -> str:
        """sha256 of the adapter."""
        return hashlib.sha256((self.folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()

    def said(self, host: Host) -> list[str]:
        """Lines with which processes of a host ended."""
        lines = self.log(host).read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if "dec2vec: error" in line]

    def exit_codes(self, host: Host) -> list[int]:
        """Of the host's processes that ended with an error, as its torchrun has noted them."""
        return [int(code) for code in _EXIT.findall(self.log(host).read_text(encoding="utf-8", errors="replace"))]

    def _start_again(self) -> None:
        if self.by_hand:
            return
        for position, agent in enumerate(self.agents):
            if agent.poll() not in (None, 0):
                self.starts += 1
                if self.starts > MAX_STARTS:
                    raise SystemExit(f"torchrun gave up {self.starts} times; see {self.folder}-*.log")
                self.agents[position] = self._start(position)

    def _start(self, position: int) -> subprocess.Popen[bytes]:
        host, first = self.hosts[position], self.hosts[0]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(self.processes)]
        meeting = ["--nnodes", str(len(self.hosts)), "--local_addr", host.address, "--rdzv_id", self.folder.name]
        meeting += ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"{first.address}:{PORT}"]
        meeting += ["--rdzv_conf", f"is_host={int(host is first)},join_timeout={self.join_timeout}"]
        command = [*host.enter, *torchrun, *meeting, "--max_restarts", str(self.restarts)]
        if self.pinned:
            taskset = f'exec taskset --cpu-list $((LOCAL_RANK % {len(os.sched_getaffinity(0))})) "$0" "$@"'
            command += ["--no_python", "bash", "-c", taskset, sys.executable]
        command += ["-m", "dec2vec", "train", *self.arguments, "--output_dir", str(self.folder)]
        ours = {**ENGINES[self.engine], "GLOO_SOCKET_IFNAME": host.interface, "OMP_NUM_THREADS": "1"}
        ours["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # as scripts/two-hosts has it, which says why
        log = self._logs[position]
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **ours})


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found
