"""How many tokens' graphs fit into memory: what fits is embedded once a step, not twice."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch
from torch import Tensor

from dec2vec.batching import Chunk
from dec2vec.embedder import Embedder
from train.distributed import world_size

SHARE = 0.5
"""Of the free memory. The rest is for the backward pass, the loss, evaluations, and what else runs on the machine."""
_CGROUP = Path("/sys/fs/cgroup")


def affordable_tokens(embedder: Embedder, chunk: Chunk) -> int:
    """Tokens whose graphs this process may hold at once, by what the graph of `chunk` holds.

    Processes on a CPU share its memory; each takes its part.
    """
    device = chunk.input_ids.device
    free = free_bytes(device) // (world_size() if device.type == "cpu" else 1)
    return int(SHARE * free * chunk.padded_tokens // max(1, graph_bytes(embedder, chunk)))


def graph_bytes(embedder: Embedder, chunk: Chunk) -> int:
    """Bytes that autograd keeps for the backward pass of a chunk; weights, which are there anyway, don't count."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in embedder.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        embedder(chunk.input_ids, chunk.lengths)
    return sum(sizes.values())


def free_bytes(device: torch.device) -> int:
    """Memory that can still be had: of the CUDA device, or of the machine within its container's limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([psutil.virtual_memory().available, *_container_room()])


def _container_room() -> list[int]:
    """What a control group (version 2) leaves; nothing where there is no limit."""
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return []
    return [max(0, int(limit) - int(used))] if limit.isdigit() else []
