"""`scripts/two-hosts` as it stands, the same line on hosts that know each other by name, as machines do."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hosts.network import Host

RECIPE = Path(__file__).resolve().parents[2] / "two-hosts"
NAMED = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


def run_recipe(
    hosts: Sequence[Host], parent: Path, processes: int, engine: str, options: Sequence[str], seconds: float
) -> tuple[str, tuple[str, ...]]:
    """sha256 of the adapter, and lines with which processes ended (of a good run none)."""
    folder = parent / "recipe"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = folder.with_name("recipe-hosts").resolve()
    lines = ["127.0.0.1 localhost", *(f"{host.address} {_name(host)}" for host in hosts)]
    names.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    logs = {host.name: folder.with_name(f"recipe-{host.name}.log") for host in hosts}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "NPROC": str(processes), "ENGINE": engine, "OMP_NUM_THREADS": "1"}
    command = [str(RECIPE), _name(hosts[0]), *options, "--output_dir", str(folder)]
    running = []
    for host in hosts:
        named = [*host.enter, "unshare", "--uts", "--mount", "bash", "-c", NAMED, "-", _name(host), str(names)]
        with logs[host.name].open("wb") as log:
            running.append(subprocess.Popen([*named, *command], stdout=log, stderr=log, env=environment))
    try:
        codes = [process.wait(seconds) for process in running]
    finally:
        for process in running:
            process.kill()
    if any(codes):
        raise SystemExit(f"scripts/two-hosts ended with {codes}; see {folder}-*.log")
    said = [f"{name}: {line}" for name, log in logs.items() for line in log.read_text().splitlines()]
    adapter = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(adapter).hexdigest(), tuple(line for line in said if "dec2vec: error" in line)


def _name(host: Host) -> str:
    return f"dec2vec-host-{host.name}"
