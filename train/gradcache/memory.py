"""How many tokens' graphs fit into memory: what fits is embedded once a step, not twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from dec2vec.batching import Chunk
from dec2vec.decoder.embedder import Embedder
from train.distributed.collectives import world_size
from train.distributed.sharded import is_sharded

SHARE = 0.5
"""Of the free memory. The rest is for the backward pass, the loss, evaluations, and what else runs on the machine."""
_CGROUP = Path("/sys/fs/cgroup")


def chunk_budget(setting: int | Literal["auto"], device: torch.device) -> int:
    """Padded tokens of a chunk. auto depends on the kind of device alone, so that a resumed run has the same chunks."""
    if setting == "auto":
        return 16_384 if device.type == "cuda" else 1024
    return setting


def affordable_tokens(embedder: Embedder, chunk: Chunk) -> int:
    """Tokens whose graphs this process may hold at once, by what the graph of `chunk` holds.

    Processes on a CPU share its memory; each takes its part.
    """
    device = chunk.input_ids.device
    free = free_bytes(device) // (world_size() if device.type == "cpu" else 1)
    return int(SHARE * free * chunk.padded_tokens // max(1, graph_bytes(embedder, chunk)))


def graph_bytes(embedder: Embedder, chunk: Chunk) -> int:
    """Bytes that autograd keeps for the backward pass of a chunk; weights, which are there anyway, don't count."""
    parameters = [] if is_sharded(embedder) else list(embedder.parameters())
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        gathered = isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter)
        if storage.data_ptr() not in weights and not gathered:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        embedder(chunk.input_ids, chunk.lengths)
    return sum(sizes.values())


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: of the CUDA device, or of the machine within its container's limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([_machine_room(), *_container_room()])


def _machine_room() -> int:
    """What Linux calls available; elsewhere a quarter of the memory."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def _container_room() -> list[int]:
    """What a control group (version 2) leaves; nothing where there is no limit."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return []
    return [max(0, int(limit) - int(used))] if limit.isdigit() else []
