"""Chunks side by side on a CPU's cores, each with one thread of torch, instead of one after another with all of them.

Between two products of a chunk stand dozens of small operators, at each of which torch's threads would wait for each
other, and Python. Results come in the chunks' order, so sums over them are the same in every run.
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
from train.kernels.decoder_block import FastBlock

MOST = 8
"""Threads of chunks: Python itself runs in one of them at a time."""
_MOVING = {"dynamic", "longrope"}
"""Rotary positions that a forward pass changes for the next."""
Item = TypeVar("Item")
Found = TypeVar("Found")


def side_by_side(embedder: Embedder, chunks: int) -> int:
    """How many chunks may run at a time; 1 where it would not be the same, or not worth it."""
    threads = min(MOST, torch.get_num_threads())
    device = next(embedder.parameters()).device
    if device.type != "cpu" or threads < 2 or chunks < 2 * threads or drops(embedder.backbone):
        return 1
    blocks = decoder_blocks(embedder.backbone, embedder.layer_count) or ()
    whole = embedder.wanted_layers([embedder.view]) == {embedder.layer_count}  # inner ones are read by hooks
    fast = bool(blocks) and all(isinstance(block, FastBlock) for block in blocks)
    return threads if fast and whole and not _moves(embedder) else 1


def _moves(embedder: Embedder) -> bool:
    model = inner_model(embedder.backbone)
    assert model is not None
    positions = model.config.get_text_config().to_dict().get("rope_parameters") or {}
    return positions.get("rope_type") in _MOVING


def in_order(function: Callable[[Item], Found], items: Iterable[Item], threads: int) -> Iterator[Found]:
    """What `function` gives for each item, `threads` of them at a time; 1 is a plain loop."""
    if threads == 1:
        yield from map(function, items)
        return
    flush, before = is_flushed(), torch.get_num_threads()

    def run(item: Item) -> Found:
        torch.set_num_threads(share)  # of this thread
        with flushed(on=flush):
            return function(item)

    share = max(1, before // threads)
    torch.set_num_threads(share)
    try:
        yield from _pool(threads).map(run, items)
    finally:
        torch.set_num_threads(before)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="chunk")
