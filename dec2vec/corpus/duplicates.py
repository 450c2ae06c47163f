"""Groups of near-duplicate vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from dec2vec.corpus.exact_search import searchable_rows
from dec2vec.corpus.neighbours import Method, nearest_others
from dec2vec.vectors.cosines import TOLERANCE, exact_cosines

BLOCK = 1024
"""Number of rows that are compared with as many others at a time."""
HNSW_NEIGHBOURS = 32
CHECKED_NUMBERS = 4 << 20
"""Most numbers of the vectors whose cosines are computed in float64 at a time."""
Pairs = Int64[np.ndarray, "pairs 2"]


@dataclass(frozen=True, eq=False)
class Group:
    """Two or more rows in ascending order, of which the first is kept, and their cosines to it.

    A cosine may be below the threshold if only a chain of similar rows connects the two.
    """

    kept: int
    members: list[int]
    cosines: list[float]

    def as_row(self, texts: Sequence[str] | None) -> dict[str, object]:
        """The group's line of the output, with the texts of its members if there are texts."""
        row: dict[str, object] = {"kept": self.kept, "members": self.members, "cosines": self.cosines}
        return row if texts is None else {**row, "texts": [texts[member] for member in self.members]}


def near_pairs(vectors: Float32[np.ndarray, "rows dim"], threshold: float, method: Method = "exact") -> Pairs:
    """Pairs of rows whose cosine is at least `threshold`, with the earlier row first.

    exact compares all rows, block by block; hnsw compares each row with its 32 nearest and with rows equal to it. What
    is within rounding of the threshold is decided by `exact_cosines`. Zero vectors have no pairs.
    """
    return np.concatenate([np.empty((0, 2), dtype=np.int64), *_iter_pairs(vectors, threshold, method)])


def group_duplicates(
    vectors: Float32[np.ndarray, "rows dim"], threshold: float, method: Method = "exact"
) -> list[Group]:
    """Groups of two or more rows, in the order of their first rows."""
    labels = _linked(len(vectors), _iter_pairs(vectors, threshold, method))
    _, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    by_label: dict[int, list[int]] = {int(labels[row]): [] for row in np.sort(first[sizes > 1])}
    for row, label in enumerate(labels.tolist()):
        if label in by_label:
            by_label[label].append(row)
    return [_group(vectors, members) for members in by_label.values()]


def _linked(n: int, parts: Iterable[Pairs]) -> Int64[np.ndarray, " rows"]:
    """A number for each row, equal for rows that a chain of pairs connects. One part is in memory at a time."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(n, dtype=np.int64)
    for pairs in parts:
        one, two = labels[pairs[:, 0]], labels[pairs[:, 1]]
        links = coo_array((np.ones(len(pairs), dtype=np.int8), (one, two)), shape=(n, n))
        labels = connected_components(links, directed=False)[1].astype(np.int64)[labels]
    return labels


def _group(vectors: Float32[np.ndarray, "rows dim"], members: list[int]) -> Group:
    rows = np.array(members, dtype=np.int64)
    cosines = _cosines(vectors, np.stack([np.full(len(rows), rows[0]), rows], axis=1))
    return Group(members[0], members, cosines.tolist())


def _iter_pairs(vectors: Float32[np.ndarray, "rows dim"], threshold: float, method: Method) -> Iterator[Pairs]:
    """Pairs in parts, none of them empty. Zero vectors are in none."""
    unit = searchable_rows(vectors)
    present = np.flatnonzero(vectors.any(axis=1))
    parts = _blocks(unit[present], threshold) if method == "exact" else _of_graph(unit[present], threshold)
    for pairs, cosines in parts:
        rows, keeps = present[pairs], cosines >= threshold
        is_close = np.abs(cosines.astype(np.float64) - threshold) <= TOLERANCE
        keeps[is_close] = _cosines(vectors, rows[is_close]) >= threshold
        if keeps.any():
            yield rows[keeps]


Part = tuple[Pairs, Float32[np.ndarray, " pairs"]]
"""Pairs whose cosine may be at least the threshold, with that cosine as far as float32 knows it."""


def _blocks(unit: Float32[np.ndarray, "present dim"], threshold: float) -> Iterator[Part]:
    for top in range(0, len(unit), BLOCK):
        for left in range(top, len(unit), BLOCK):
            cosines = unit[top : top + BLOCK] @ unit[left : left + BLOCK].T
            one, two = np.nonzero(cosines >= threshold - TOLERANCE)
            is_later = one + top < two + left
            one, two = one[is_later], two[is_later]
            yield np.stack([one + top, two + left], axis=1).astype(np.int64), cosines[one, two]


def _of_graph(unit: Float32[np.ndarray, "present dim"], threshold: float) -> Iterator[Part]:
    """The nearest rows by a graph, and equal rows, of which it may miss some."""
    if len(unit) < 2:
        return
    equal = _equal_to_earlier(unit)
    yield equal, np.ones(len(equal), dtype=np.float32)
    ranking = nearest_others(unit, HNSW_NEIGHBOURS, "hnsw")
    one, column = np.nonzero((ranking.scores >= threshold - TOLERANCE) & (ranking.positions >= 0))
    pairs = np.stack([one, ranking.positions[one, column]], axis=1).astype(np.int64)
    unique, first = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    yield unique, ranking.scores[one, column][first]


def _equal_to_earlier(unit: Float32[np.ndarray, "present dim"]) -> Pairs:
    """Each row that equals an earlier one, with the first of these."""
    first: dict[bytes, int] = {}
    digests = (hashlib.blake2b(vector.tobytes(), digest_size=16).digest() for vector in unit)
    pairs = ((first.setdefault(digest, row), row) for row, digest in enumerate(digests))
    return np.array([pair for pair in pairs if pair[0] < pair[1]], dtype=np.int64).reshape(-1, 2)


def _cosines(vectors: Float32[np.ndarray, "rows dim"], pairs: Pairs) -> Float64[np.ndarray, " pairs"]:
    """Exact ones, some pairs at a time."""
    step = max(1, CHECKED_NUMBERS // vectors.shape[1])
    parts = [pairs[start : start + step] for start in range(0, len(pairs), step)]
    found = [exact_cosines(vectors[part[:, 0]], vectors[part[:, 1]]) for part in parts]
    return np.concatenate([np.empty(0), *found])
