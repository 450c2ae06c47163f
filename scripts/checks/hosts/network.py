"""Two hosts on one machine: network namespaces that a pair of virtual cables joins.

The script that uses them runs in a namespace of its own, the first host, so nothing of the machine's network is
touched, and all of it is gone when the script ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

INSIDE = "DEC2VEC_IN_NAMESPACE"
NOT_ALLOWED = 77
"""Exit code of what can't be shown here, as automake's tests have it."""
CABLE = ("veth-a", "veth-b")


@dataclass(frozen=True)
class Host:
    """A place to start processes in; `enter` is put before their command."""

    name: str
    address: str
    interface: str
    enter: tuple[str, ...] = ()

    def sent(self) -> int:
        """Bytes that have left over the interface, headers included."""
        lines = self._run("cat", "/proc/net/dev").splitlines()
        (fields,) = [line.split(":")[1].split() for line in lines if line.strip().startswith(f"{self.interface}:")]
        return int(fields[8])

    def link(self, state: str) -> None:
        """`down` cuts the cable, `up` mends it."""
        self._run("ip", "link", "set", self.interface, state)

    def _run(self, *command: str) -> str:
        return subprocess.run([*self.enter, *command], check=True, capture_output=True, text=True).stdout


def run_inside() -> None:
    """Start this script again in a network namespace of its own; ends it with NOT_ALLOWED where there are none."""
    if INSIDE in os.environ:
        return
    for options in (["--net"], ["--user", "--map-root-user", "--net"]):
        with contextlib.suppress(FileNotFoundError):
            found = subprocess.run(["unshare", *options, "ip", "link"], capture_output=True, check=False)
            if found.returncode == 0:
                os.environ[INSIDE] = "1"
                os.execvp("unshare", ["unshare", *options, sys.executable, *sys.argv])
    sys.stderr.write("network namespaces are not allowed here (unshare --net): nothing shown\n")
    sys.exit(NOT_ALLOWED)


def one_host() -> Host:
    """This namespace, whose processes talk over its loopback."""
    _ip("link", "set", "lo", "up")
    return Host("a", "127.0.0.1", "lo")


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """This namespace and another, and the cable between them."""
    _ip("link", "set", "lo", "up")
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)  # ends with this script
    try:
        _wait_for_namespace(holder.pid)
        enter = ("nsenter", "--target", str(holder.pid), "--net", "--")
        _ip("link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1], "netns", str(holder.pid))
        for number, (name, prefix) in enumerate(zip(CABLE, ((), enter), strict=True), 1):
            _ip("addr", "add", f"10.77.0.{number}/24", "dev", name, enter=prefix)
            _ip("link", "set", "lo", "up", enter=prefix)
            _ip("link", "set", name, "up", enter=prefix)
        yield Host("a", "10.77.0.1", CABLE[0]), Host("b", "10.77.0.2", CABLE[1], enter)
    finally:
        holder.kill()
        holder.wait()


def _ip(*arguments: str, enter: Sequence[str] = ()) -> None:
    subprocess.run([*enter, "ip", *arguments], check=True)


def _wait_for_namespace(pid: int) -> None:
    ours = Path("/proc/self/ns/net").readlink()
    for _ in range(500):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/ns/net").readlink() != ours:
                return
        time.sleep(0.01)
    raise SystemExit("unshare --net gave no namespace within 5 s")
