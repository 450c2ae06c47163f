"""How much memory there is, how much of it this process uses, and how much the graph of a token takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dec2vec.batching import Chunk
from dec2vec.decoder.devices import free_device_bytes, own_device_bytes
from train.distributed.interface import Engine
from train.kernels.frozen_linear import rounded_weights

LARGEST_CHUNK = 16_384
"""Padded tokens of a chunk on an accelerator, where memory allows."""
CPU_CHUNK = 1024
"""Padded tokens of a chunk on a CPU: a layer's activations fit into its caches."""
CHUNK_SHARE = 0.4
"""The part of an accelerator's free memory that the graph of one chunk may take."""
PROBE_TOKENS = 256
"""Tokens on which the memory of a token is measured."""
_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_Files = tuple[Path, str, str, str]


def chunk_budget(setting: int | Literal["auto"], device: torch.device) -> int:
    """Padded tokens of a chunk; `auto` is that of the kind of device, before an accelerator's memory is known."""
    if setting == "auto":
        return CPU_CHUNK if device.type == "cpu" else LARGEST_CHUNK
    return setting


def affordable_chunk(token_bytes: int, free: int) -> int:
    """Padded tokens of a chunk whose graph takes `token_bytes` a token, on an accelerator with `free` bytes."""
    return max(1, min(LARGEST_CHUNK, int(CHUNK_SHARE * free) // max(1, token_bytes)))


def token_bytes(model: Engine, chunk: Chunk) -> int:
    """Bytes that the graph of a token takes, measured on some rows of `chunk`."""
    rows = max(1, PROBE_TOKENS // chunk.input_ids.shape[1])
    probe = Chunk(chunk.rows[:rows], chunk.input_ids[:rows], chunk.lengths[:rows])
    return graph_bytes(model, probe) // probe.padded_tokens


def graph_bytes(model: Engine, chunk: Chunk) -> int:
    """Bytes that autograd keeps for the backward pass of a chunk.

    Without the weights and their copies for autocast, which are in memory anyway.
    """
    parameters = list(model.embedder.parameters()) if model.holds_whole_weights else []
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        gathered = isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter)
        if storage.data_ptr() not in weights and not gathered:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that is saved as it is would keep its own graph alive, for ever

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.embedder(chunk.input_ids, chunk.lengths)
    kept = {copy.untyped_storage().data_ptr() for copy in rounded_weights(model.embedder)}
    return sum(size for place, size in sizes.items() if place not in kept)


def free_bytes(device: torch.device) -> int:
    """Free memory of the accelerator, or of the machine within its container's limits."""
    if device.type != "cpu":
        return free_device_bytes(device)
    return min([_machine_free(), *_container_free()])


def own_bytes(device: torch.device) -> int:
    """Memory of this process on the accelerator, or in main memory, without what is only a copy of files."""
    if device.type != "cpu":
        return own_device_bytes(device)
    return _resident("RssAnon")


def file_bytes() -> int:
    """Pages of files, such as libraries, that this process has in main memory."""
    return _resident("RssFile")


def _resident(kind: str) -> int:
    status = _read(_PROC / "self" / "status")
    found = [line.split()[1] for line in status.splitlines() if line.startswith(kind)]
    return int(found[0]) * 1024 if found else 0


def _machine_free() -> int:
    """What Linux calls available memory; on other systems a quarter of all memory."""
    lines = [line for line in _read(_PROC / "meminfo").splitlines() if line.startswith("MemAvailable")]
    if not lines:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    return int(lines[0].split()[1]) * 1024


def _container_free() -> list[int]:
    """What each limit on this process's control groups allows beyond its present use; empty if there is no limit.

    Pages of files that were read are not counted as used, since the kernel drops them first.
    """
    found = []
    for folder, maximum, usage, cached in _control_groups():
        limit, used = _read(folder / maximum).strip(), _read(folder / usage).strip()
        if limit.isdigit() and used.isdigit():
            stat = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            found.append(max(0, int(limit) - int(used) + int(stat.get(cached, 0))))
    return found


def _control_groups() -> Iterator[_Files]:
    """The groups of this process and those around them, in versions 1 and 2, with the names of their files."""
    for line in _read(_PROC / "self" / "cgroup").splitlines() or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, names = _CGROUP, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = _CGROUP / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        place = base / path.strip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(base):
                yield folder, *names


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
