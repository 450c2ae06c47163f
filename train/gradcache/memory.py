"""How many tokens' graphs fit into memory: chunks whose graph fits are embedded once a step, not twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dec2vec.batching import Chunk
from dec2vec.decoder.devices import free_device_bytes
from train.distributed.collectives import world_size
from train.distributed.interface import Engine

GRAPH_FRACTION = 0.5
"""The part of free memory for graphs; the rest is for backward passes, the loss, evaluations and other processes."""
_CGROUP = Path("/sys/fs/cgroup")


def chunk_budget(setting: int | Literal["auto"], device: torch.device) -> int:
    """Padded tokens of a chunk. `auto` depends only on the kind of device, so a resumed run has the same chunks."""
    if setting == "auto":
        return 16_384 if device.type == "cuda" else 1024
    return setting


def activation_budget(model: Engine, chunk: Chunk) -> int:
    """Tokens whose graphs this process may hold at once, estimated from the graph of `chunk`.

    Processes on one CPU divide its memory among themselves.
    """
    device = chunk.input_ids.device
    free = free_bytes(device) // (world_size() if device.type == "cpu" else 1)
    return int(GRAPH_FRACTION * free * chunk.padded_tokens // max(1, graph_bytes(model, chunk)))


def graph_bytes(model: Engine, chunk: Chunk) -> int:
    """Bytes that autograd keeps for the backward pass of a chunk, without the weights, which are in memory anyway."""
    parameters = list(model.embedder.parameters()) if model.holds_whole_weights else []
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        gathered = isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter)
        if storage.data_ptr() not in weights and not gathered:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.embedder(chunk.input_ids, chunk.lengths)
    return sum(sizes.values())


def free_bytes(device: torch.device) -> int:
    """Free memory of the accelerator, or of the machine within its container's limit."""
    if device.type != "cpu":
        return free_device_bytes(device)
    return min([_machine_free(), *_container_free()])


def _machine_free() -> int:
    """What Linux calls available memory; on other systems a quarter of all memory."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def _container_free() -> list[int]:
    """What the control group (version 2) allows beyond its present use; an empty list if it sets no limit."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return []
    return [max(0, int(limit) - int(used))] if limit.isdigit() else []
