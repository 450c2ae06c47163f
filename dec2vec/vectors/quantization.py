"""Vectors with one byte or one bit per dimension: 4 and 32 times smaller than float32.

    ranges = Ranges.from_vectors(vectors_of_other_text)
    codes = ranges.encode(vectors)                      # int8 (n, d)
    rounded = ranges.decode(codes)                      # float32 (n, d), to be compared like the vectors
    bits = to_bits(vectors)                             # uint8 (n, d / 8)
    distances = hamming(bits[left], bits[right])

As in FAISS (QT_8bit), the interval of each dimension is divided into 255 steps and decoded to their middles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int8, Int64, UInt8


@dataclass(frozen=True, eq=False)
class Ranges:
    """The smallest and largest value of every dimension, measured on texts that are not evaluated."""

    low: Float32[np.ndarray, " dim"]
    high: Float32[np.ndarray, " dim"]

    @classmethod
    def from_vectors(cls, vectors: Float[np.ndarray, "texts dim"]) -> Ranges:
        """The ranges of one or more vectors."""
        return cls(vectors.min(axis=0).astype(np.float32), vectors.max(axis=0).astype(np.float32))

    def encode(self, vectors: Float[np.ndarray, "texts dim"]) -> Int8[np.ndarray, "texts dim"]:
        """Round values to steps. Values outside the range become its end; a dimension without a range becomes 0."""
        width = self.high - self.low
        shares = np.divide(vectors - self.low, width, out=np.zeros(vectors.shape, np.float32), where=width > 0)
        return np.asarray((np.nan_to_num(shares).clip(0, 1) * 255).astype(np.int16) - 128, dtype=np.int8)

    def decode(self, codes: Int8[np.ndarray, "texts dim"]) -> Float32[np.ndarray, "texts dim"]:
        """The middles of the steps."""
        shares = (codes.astype(np.float32) + 128.5) / 255
        return np.asarray(self.low + shares * (self.high - self.low), dtype=np.float32)

    def rounded(self, vectors: Float[np.ndarray, "texts dim"]) -> Float32[np.ndarray, "texts dim"]:
        """The vectors after rounding to one byte per dimension. Values that are not finite become nan."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.where(np.isfinite(vectors), self.decode(self.encode(vectors)), np.float32(np.nan))


def to_bits(vectors: Float[np.ndarray, "texts dim"]) -> UInt8[np.ndarray, "texts bytes"]:
    """One bit per value, 1 if the value is positive; eight bits make a byte."""
    return np.packbits(vectors > 0, axis=1)


def hamming(
    left: UInt8[np.ndarray, "pairs bytes"], right: UInt8[np.ndarray, "pairs bytes"]
) -> Int64[np.ndarray, " pairs"]:
    """The number of dimensions in which the vectors of each pair differ."""
    return np.asarray(np.bitwise_count(left ^ right).sum(axis=1), dtype=np.int64)
