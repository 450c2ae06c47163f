"""Vectors of a task's two sides, view by view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from dec2vec.decoder.pooling import View
from eval.tasks.task import TaskVectors

Vectors = Mapping[View, NDArray[np.float32]]


class BothSides(Mapping[View, TaskVectors]):
    """Put together when a view is asked for, as the sides may be read from disk; one-sided without `documents`."""

    def __init__(self, queries: Vectors, documents: Vectors | None = None) -> None:
        self._queries, self._documents = queries, documents

    def __getitem__(self, view: View) -> TaskVectors:
        queries = self._queries[view]
        return TaskVectors(queries, queries[:0] if self._documents is None else self._documents[view])

    def __iter__(self) -> Iterator[View]:
        return iter(self._queries)

    def __len__(self) -> int:
        return len(self._queries)
