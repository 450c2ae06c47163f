"""Linear post-processing as an affine map, `y = (x - mean) @ kernel`.

Centring, all-but-the-top, PCA and every whitening of the same texts differ only in how they scale or drop the columns
of one rotation, a `Basis`. It is computed once, and so are the coordinates of the vectors in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32, Float64

from dec2vec.errors import UserError

Provenance = dict[str, str | int | float]
Facts = Mapping[str, str | int | float]


@dataclass(frozen=True, eq=False)
class Basis:
    """An origin and directions. `vectors` is None for the axes themselves, which need no matrix product."""

    mean: Float64[np.ndarray, " dim"]
    vectors: Float64[np.ndarray, "dim directions"] | None = None

    @property
    def size(self) -> int:
        """The number of directions."""
        return int(self.mean.shape[0] if self.vectors is None else self.vectors.shape[1])

    def coordinates(self, x: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows directions"]:
        """The coordinates of vectors. They are centred in float64, because decoder states have a large common mean."""
        centred = x.astype(np.float64) - self.mean
        return centred if self.vectors is None else np.asarray(centred @ self.vectors)

    def kernel(self, scales: Float64[np.ndarray, " directions"]) -> Float64[np.ndarray, "dim k"]:
        """The directions multiplied by their scales, without those whose scale is 0."""
        kept = np.flatnonzero(scales)
        vectors = np.eye(self.size) if self.vectors is None else self.vectors
        return np.asarray(vectors[:, kept] * scales[kept])


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine map and the facts of its fit."""

    mean: Float64[np.ndarray, " dim"]
    kernel: Float64[np.ndarray, "dim k"]
    provenance: Provenance = field(default_factory=dict)

    @property
    def dimension(self) -> int:
        """The number k of output dimensions."""
        return int(self.kernel.shape[1])

    def apply(self, x: Float[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows k"]:
        """Map vectors, without scaling them to length 1. They are centred in float64, because the mean is large."""
        if x.ndim != 2 or x.shape[1] != self.mean.shape[0]:
            raise UserError(
                f"vectors of shape {x.shape} do not fit a {type(self).__name__.lower()} of "
                f"{self.mean.shape[0]} dimensions"
            )
        mapped: Float32[np.ndarray, "rows k"] = ((x.astype(np.float64) - self.mean) @ self.kernel).astype(np.float32)
        return mapped
