"""Scale vectors to length 1, and average those of an ensemble's members."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Part = tuple[NDArray[np.int64], list[Vectors]]
"""Row numbers and the vectors of these rows, one array per view."""


def mean_over_members(members: Sequence[Iterable[Part]], count: int, *, unit: bool) -> list[Vectors]:
    """The mean over members as (count, d) for each view. `unit` scales each member's vectors to length 1 first.

    Every member streams each of the rows 0 to count - 1 once. Only the sums are held in memory.
    """
    sums: list[Vectors] = []
    for parts in members:
        for rows, vectors in parts:
            if not sums:
                sums = [np.zeros((count, array.shape[1]), dtype=np.float32) for array in vectors]
            for total, array in zip(sums, vectors, strict=True):
                total[rows] += unit_rows(array) if unit else array
    return [total / np.float32(len(members)) for total in sums]


def unit_rows(vectors: Float[np.ndarray, "rows dim"], *, wide: bool = False) -> Vectors:
    """Rows scaled to length 1; a zero vector stays zero. `wide` computes in float64."""
    rows = vectors.astype(np.float64) if wide else vectors
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-12), dtype=np.float32)
