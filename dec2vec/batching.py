"""Group token ids of different lengths into padded chunks, and find the caller's order again.

A chunk holds texts of similar length, so that little of it is padding. Equal texts are embedded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

TokenIds = Sequence[int]


@dataclass(frozen=True)
class ChunkCost:
    """What the passes of a chunk cost, in units of a token's time: `fixed` and its tokens, or `least` if that is more.

    On a CPU, calls and reading the weights again come on top of the arithmetic. On an accelerator the host launches
    kernels while the device computes, so that a small chunk takes as long as its launches, and a large one no longer
    than its arithmetic.
    """

    fixed: int = 0
    least: int = 0

    def of(self, tokens: int) -> int:
        """The cost of a chunk with so many padded tokens."""
        return self.fixed + max(self.least, tokens)

    def of_pieces(self, rows: NDArray[np.int64], width: int, pieces: NDArray[np.int64]) -> NDArray[np.int64]:
        """The cost of so many rows of one width in that many nearly equal chunks."""
        few, larger = np.divmod(rows, pieces)
        small, large = (np.maximum(self.least, count * width) for count in (few, few + 1))
        cost: NDArray[np.int64] = pieces * self.fixed + larger * large + (pieces - larger) * small
        return cost


CPU_COST, ACCELERATOR_COST = ChunkCost(fixed=64), ChunkCost(fixed=128, least=4096)
"""Measured on CPUs; predicted for Qwen3-0.6B on an H200, with 38 to 68 ms of launches a chunk, 12 to 16 us a token, and
a millisecond or two at the end of each chunk, where the host waits."""


@dataclass(frozen=True)
class Chunk:
    """The input of one forward pass. `rows` are positions among the unique texts."""

    rows: Int[Tensor, batch]
    input_ids: Int[Tensor, "batch time"]
    lengths: Int[Tensor, batch]

    def to(self, device: torch.device) -> Chunk:
        """The same chunk with all its tensors on `device`."""
        return Chunk(self.rows.to(device), self.input_ids.to(device), self.lengths.to(device))

    @property
    def padded_tokens(self) -> int:
        """Number of token positions with padding."""
        return self.input_ids.numel()


def deduplicate(sequences: Sequence[TokenIds]) -> tuple[list[TokenIds], NDArray[np.int64]]:
    """The unique sequences in order of their first occurrence, and for each input the index of its unique sequence."""
    index_of: dict[tuple[int, ...], int] = {}
    unique: list[TokenIds] = []
    inverse = np.empty(len(sequences), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        key = tuple(sequence)
        if key not in index_of:
            index_of[key] = len(unique)
            unique.append(sequence)
        inverse[row] = index_of[key]
    return unique, inverse


def chunk_cost(device: torch.device) -> ChunkCost:
    """What chunks cost on a device of that type."""
    return CPU_COST if device.type == "cpu" else ACCELERATOR_COST


def plan(lengths: Sequence[int], token_budget: int, chunk_cost: ChunkCost = CPU_COST) -> list[list[int]]:
    """Split rows, sorted by length, into groups of at most `token_budget` padded tokens. A single row always fits.

    Among such splits, choose one that costs the least. The groups are in ascending order of length, and depend on
    nothing but the arguments.
    """
    if not len(lengths):
        return []
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    widths, counts = np.unique(sizes, return_counts=True)
    rows_until = np.concatenate([[0], np.cumsum(counts)])
    room = np.maximum(1, token_budget // widths)
    cost = np.zeros(len(widths) + 1)
    begin = np.zeros(len(widths) + 1, dtype=np.int64)
    for end in range(1, len(widths) + 1):  # lengths begin..end-1 go together, padded to the last of them
        rows = rows_until[end] - rows_until[:end]
        costs = cost[:end] + chunk_cost.of_pieces(rows, int(widths[end - 1]), -(-rows // room[end - 1]))
        begin[end] = np.argmin(costs)
        cost[end] = costs[begin[end]]
    groups: list[list[int]] = []
    end = len(widths)
    while end:
        rows = order[rows_until[begin[end]] : rows_until[end]]
        pieces = np.array_split(rows, -(-len(rows) // room[end - 1]))
        groups += [piece.tolist() for piece in reversed(pieces)]
        end = int(begin[end])
    return groups[::-1]


def within(groups: Sequence[Sequence[int]], costs: Sequence[int], budget: int) -> list[list[int]]:
    """The groups, divided where the costs of their rows exceed the budget together. A single row always fits."""
    found: list[list[int]] = []
    for group in groups:
        total = 0
        found.append([])
        for row in group:
            if found[-1] and total + costs[row] > budget:
                found.append([])
                total = 0
            found[-1].append(row)
            total += costs[row]
    return found


def by_kind(lengths: Sequence[int], borders: Sequence[int]) -> list[NDArray[np.int64]]:
    """The rows between the borders of the positions, the longest first: passes never mix them. One part if none is.

    A length that equals a border is below it.
    """
    kinds = np.searchsorted(np.asarray(sorted(borders), dtype=np.int64), np.asarray(lengths, dtype=np.int64))
    return [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)[::-1]]


def pad(sequences: Sequence[TokenIds], rows: Sequence[int], pad_id: int = 0) -> Chunk:
    """Pad the chosen rows on the right. With causal attention no real token sees a pad, so its id does not matter."""
    lengths = torch.tensor([len(sequences[row]) for row in rows])
    input_ids = torch.full((len(rows), int(lengths.max())), pad_id, dtype=torch.long)
    for position, row in enumerate(rows):
        input_ids[position, : len(sequences[row])] = torch.as_tensor(sequences[row], dtype=torch.long)
    return Chunk(torch.as_tensor(rows, dtype=torch.long), input_ids, lengths)


def make_chunks(
    sequences: Sequence[TokenIds],
    token_budget: int,
    chunk_cost: ChunkCost = CPU_COST,
    borders: Sequence[int] = (),
) -> list[Chunk]:
    """Padded chunks of all sequences, sorted by length. No chunk has lengths on both sides of one of the `borders`."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    chunks: list[Chunk] = []
    for rows in reversed(by_kind(lengths.tolist(), borders)):
        groups = plan(lengths[rows].tolist(), token_budget, chunk_cost)
        chunks += [pad(sequences, rows[group].tolist()) for group in groups]
    return chunks
