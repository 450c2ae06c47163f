"""What a step costs on W processes, on paper: bytes that each sends, seconds of arithmetic and of communication.

The formulas and the sources of the constants are in docs/scaling.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FLOAT = 4
KEYS = 4 * 8
"""What finds false negatives: four 64-bit keys of each document."""
COLLECTIVES = 11
"""Of a step of InfoNCE: two gathers (vectors, keys), each after one of their row counts, and seven sums (number of
queries, candidates' gradients, loss, temperature's slope, trained weights' gradients, counts for the log, stop)."""


@dataclass(frozen=True)
class Work:
    """One step over the global batch."""

    pairs: float
    documents: float
    """Of a pair: its positive and its hard negatives."""
    dimension: int
    trained: int
    """Trained parameters."""
    tokens: float = 0.0
    """Of a pair, hard negatives included."""
    matrices: float = 0.0
    """Parameters that a token is multiplied with: all but the input embeddings."""


@dataclass(frozen=True)
class Device:
    """A kind of device and what joins them."""

    name: str
    flops: float
    """Of a model's forward and backward pass, a second."""
    contrast_flops: float
    """Of the cosines in float32."""
    inside: float
    """Bytes a second that a device sends to the others of its node."""
    between: float
    """Bytes a second that a node sends to the other nodes."""
    hop: float = 5e-6
    """Seconds until a small message has arrived."""
    per_node: int = 8


def gathered(world: int, whole: float) -> float:
    """Bytes that each process sends so that all have all of `whole` bytes; on average none can do with less."""
    return whole * (world - 1) / world


def summed(world: int, whole: float) -> float:
    """Bytes that each sends so that all have the sum of arrays of `whole` bytes: a reduce-scatter and a gather."""
    return 2 * whole * (world - 1) / world


def sent(work: Work, world: int) -> dict[str, float]:
    """Bytes that each process sends in a step, by what for. Single numbers are left out."""
    vectors = work.pairs * work.documents * work.dimension * FLOAT
    return {
        "embeddings": gathered(world, vectors),
        "their gradients": summed(world, vectors),
        "keys": gathered(world, work.pairs * work.documents * KEYS),
        "trained weights' gradients": summed(world, work.trained * FLOAT),
    }


def least(work: Work, world: int) -> float:
    """The least for the same result: of the candidates' gradients a process needs only its own ones' sum."""
    vectors = work.pairs * work.documents * work.dimension * FLOAT
    return 2 * gathered(world, vectors) + summed(world, work.trained * FLOAT)


def arithmetic(work: Work, world: int, device: Device) -> float:
    """Seconds of a step's passes with gradient caching (two forward, one backward without the frozen weights'
    gradients) and of the cosines, a third of them forward."""
    passes = 6 * work.pairs * work.tokens * work.matrices / world / device.flops
    contrast = 6 * work.dimension * work.pairs**2 * work.documents / world / device.contrast_flops
    return passes + contrast


def communication(work: Work, world: int, device: Device) -> float:
    """Seconds that the same bytes take on the slowest link, nothing overlapped, and the hops of every collective."""
    bandwidth = device.inside if world <= device.per_node else min(device.inside, device.between)
    hops = 2 * math.ceil(math.log2(world)) if world > 1 else 0
    return sum(sent(work, world).values()) / bandwidth + COLLECTIVES * hops * device.hop


def efficiency(work: Work, world: int, device: Device) -> float:
    """Share of the time that is arithmetic which one device would do as fast."""
    alone = arithmetic(work, 1, device) / world
    return alone / (arithmetic(work, world, device) + communication(work, world, device))
