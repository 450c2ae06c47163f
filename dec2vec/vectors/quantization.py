"""Vectors in one byte or one bit a dimension: 4 and 32 times smaller than float32.

    ranges = Ranges.of(vectors_of_other_text)
    codes = ranges.encode(vectors)                      # int8 (n, d)
    kept = ranges.decode(codes)                         # float32 (n, d), to be compared as the vectors were
    bits = to_bits(vectors)                             # uint8 (n, d / 8)
    distances = hamming(bits[left], bits[right])

The ranges are FAISS's (QT_8bit): each dimension's interval, cut into 255 steps and read at their middles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int8, Int64, UInt8


@dataclass(frozen=True, eq=False)
class Ranges:
    """Smallest and largest value of every dimension, from text that is not to be judged."""

    low: Float32[np.ndarray, " dim"]
    high: Float32[np.ndarray, " dim"]

    @classmethod
    def of(cls, vectors: Float[np.ndarray, "texts dim"]) -> Ranges:
        """Of these vectors; at least one."""
        return cls(vectors.min(axis=0).astype(np.float32), vectors.max(axis=0).astype(np.float32))

    def encode(self, vectors: Float[np.ndarray, "texts dim"]) -> Int8[np.ndarray, "texts dim"]:
        """Values beyond the range are read as its end; a dimension without a range is 0."""
        width = self.high - self.low
        shares = np.divide(vectors - self.low, width, out=np.zeros(vectors.shape, np.float32), where=width > 0)
        return np.asarray((np.nan_to_num(shares).clip(0, 1) * 255).astype(np.int16) - 128, dtype=np.int8)

    def decode(self, codes: Int8[np.ndarray, "texts dim"]) -> Float32[np.ndarray, "texts dim"]:
        """The middle of each step."""
        shares = (codes.astype(np.float32) + 128.5) / 255
        return np.asarray(self.low + shares * (self.high - self.low), dtype=np.float32)

    def rounded(self, vectors: Float[np.ndarray, "texts dim"]) -> Float32[np.ndarray, "texts dim"]:
        """What is left of vectors after one byte a dimension. What was no number is none."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.where(np.isfinite(vectors), self.decode(self.encode(vectors)), np.float32(np.nan))


def to_bits(vectors: Float[np.ndarray, "texts dim"]) -> UInt8[np.ndarray, "texts bytes"]:
    """1 where a value is above 0, eight of them a byte."""
    return np.packbits(vectors > 0, axis=1)


def hamming(
    left: UInt8[np.ndarray, "pairs bytes"], right: UInt8[np.ndarray, "pairs bytes"]
) -> Int64[np.ndarray, " pairs"]:
    """Dimensions in which the vectors of each pair differ."""
    return np.asarray(np.bitwise_count(left ^ right).sum(axis=1), dtype=np.int64)
