"""Chunks at a time on a CPU's cores, with one thread of torch each, instead of one after another with all threads.

Between two matrix products of a chunk there are dozens of small operators, at each of which torch's threads would wait
for each other and for Python. Results come in the chunks' order, so sums over them are the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.layers import decoder_blocks, inner_model
from dec2vec.runtime import flushed, is_flushed
from train.adapters.capabilities import drops
from train.distributed.interface import Engine
from train.kernels.decoder_block import FastBlock

MAX_THREADS = 8
"""Only one of the threads runs Python at a time."""
_DYNAMIC_ROTARY = {"dynamic", "longrope"}
"""Rotary positions that a forward pass changes for the next one."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def fitting_threads(model: Engine, chunks: int) -> int:
    """How many of `chunks` chunks may run at a time; 1 where the result would differ or it isn't worth it."""
    embedder, threads = model.embedder, min(MAX_THREADS, torch.get_num_threads())
    device = next(embedder.parameters()).device
    if not model.backward_is_local or device.type != "cpu" or threads < 2 or chunks < 2 * threads:
        return 1
    return threads if _runs_in_threads(embedder) else 1


def _runs_in_threads(embedder: Embedder) -> bool:
    """Whether forward passes don't disturb each other: by random numbers, hooks at inner layers, or module state."""
    blocks = decoder_blocks(embedder.backbone, embedder.layer_count) or ()
    reads_last_layer = embedder.wanted_layers([embedder.view]) == {embedder.layer_count}
    is_fused = bool(blocks) and all(isinstance(block, FastBlock) for block in blocks)
    return is_fused and reads_last_layer and not drops(embedder.backbone) and not _changes_rotary(embedder)


def _changes_rotary(embedder: Embedder) -> bool:
    model = inner_model(embedder.backbone)
    assert model is not None
    positions = model.config.get_text_config().to_dict().get("rope_parameters") or {}
    return positions.get("rope_type") in _DYNAMIC_ROTARY


def in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """What `function` returns for each item, in the order of the items; `threads` calls run at a time."""
    flush, before = is_flushed(), torch.get_num_threads()
    threads_each = max(1, before // threads)

    def run(item: Item) -> Result:
        torch.set_num_threads(threads_each)  # of this thread
        with flushed(on=flush):
            return function(item)

    torch.set_num_threads(threads_each)
    try:
        yield from _pool(threads).map(run, items)
    finally:
        torch.set_num_threads(before)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="chunk")
