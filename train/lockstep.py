"""The same passes on every rank, where each pass is a collective (sharded weights are gathered for it).

Ranks have texts of their own and so chunks of their own number. Those with fewer repeat a text of theirs, whose vector
nobody reads and whose gradient is zero; a chunk keeps its graph only if it may on all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

from dec2vec.batching import Chunk
from train.distributed import world_size


def in_lockstep(chunks: Sequence[Chunk], keeps: Sequence[bool]) -> tuple[list[Chunk], list[bool]]:
    """The chunks, followed by idle ones up to the largest number of any rank, and which keep their graph everywhere."""
    if world_size() == 1:
        return list(chunks), list(keeps)
    device = chunks[0].input_ids.device
    most = torch.tensor(len(chunks), device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    idle = int(most) - len(chunks)
    kept = torch.tensor([*keeps, *[True] * idle], dtype=torch.int32, device=device)
    dist.all_reduce(kept, dist.ReduceOp.MIN)
    shortest = chunks[0]
    spare = Chunk(shortest.rows[:1], shortest.input_ids[:1], shortest.lengths[:1])
    return [*chunks, *[spare] * idle], kept.bool().tolist()
