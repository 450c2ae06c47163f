"""The nearest neighbours of every vector of a corpus, and groups of near-duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int64

from dec2vec.corpus.exact_search import Ranking, exact_top, searchable_rows
from dec2vec.corpus.faiss_index import faiss_top, without_self

Method = Literal["exact", "hnsw"]


def nearest_others(vectors: Float32[np.ndarray, "rows dim"], k: int, method: Method = "exact") -> Ranking:
    """The k most similar other rows of each row, best first. There are fewer columns if there are fewer other rows.

    The time of exact grows with the square of the number of rows. hnsw may miss some neighbours and then gives -1.
    """
    depth = min(k + 1, len(vectors))
    ranking = exact_top(vectors, vectors, depth) if method == "exact" else faiss_top(vectors, vectors, depth, "hnsw")
    return without_self(ranking, np.arange(len(vectors), dtype=np.int64))


def mean_distances(ranking: Ranking) -> Float[np.ndarray, " rows"]:
    """The mean of 1 - cosine over the neighbours that were found; the largest distance, 2, for a row without any."""
    is_found = ranking.positions >= 0
    total = np.where(is_found, 1.0 - ranking.scores.astype(np.float64), 0.0).sum(axis=1)
    counts = is_found.sum(axis=1)
    return np.where(counts > 0, total / np.maximum(counts, 1), 2.0)


BLOCK = 1024
"""Number of rows that are compared with as many others at a time."""
HNSW_NEIGHBOURS = 32
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

    exact compares all rows, block by block; hnsw compares each row with its 32 nearest. Zero vectors have no pairs.
    """
    if method == "hnsw":
        return _pairs_of_graph(vectors, threshold)
    blocks = [np.empty((0, 2), dtype=np.int64), *_exact_pairs(searchable_rows(vectors), threshold)]
    return np.concatenate(blocks)


def group_duplicates(
    vectors: Float32[np.ndarray, "rows dim"], threshold: float, method: Method = "exact"
) -> list[Group]:
    """Groups of two or more rows, in the order of their first rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, pairs = len(vectors), near_pairs(vectors, threshold, method)
    if not len(pairs):
        return []
    links = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels = connected_components(links, directed=False)[1]
    paired = np.unique(pairs)
    by_label: dict[int, list[int]] = {}
    for row in paired.tolist():
        by_label.setdefault(int(labels[row]), []).append(row)
    return [_group(vectors, members) for members in by_label.values()]


def _group(vectors: Float32[np.ndarray, "rows dim"], members: list[int]) -> Group:
    unit = searchable_rows(vectors[members])
    return Group(members[0], members, [float(cosine) for cosine in unit @ unit[0]])


def _exact_pairs(unit: Float32[np.ndarray, "rows dim"], threshold: float) -> Iterator[Pairs]:
    for top in range(0, len(unit), BLOCK):
        for left in range(top, len(unit), BLOCK):
            cosines = unit[top : top + BLOCK] @ unit[left : left + BLOCK].T
            one, two = np.nonzero(cosines >= threshold)
            later = one + top < two + left
            yield np.stack([one[later] + top, two[later] + left], axis=1).astype(np.int64)


def _pairs_of_graph(vectors: Float32[np.ndarray, "rows dim"], threshold: float) -> Pairs:
    ranking = nearest_others(vectors, HNSW_NEIGHBOURS, "hnsw")
    one, column = np.nonzero((ranking.scores >= threshold) & (ranking.positions >= 0))
    two = ranking.positions[one, column]
    pairs: Pairs = np.unique(np.sort(np.stack([one, two], axis=1), axis=1), axis=0).astype(np.int64)
    return pairs
