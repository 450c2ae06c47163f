"""Bootstrap over pairs: what the figure would have been with other pairs of the same kind.

Every system of a task meets the same resamples (the task's size decides them, and the seed, which `Task.seed_of` makes
from the task's texts), so that differences of two systems are paired. A resample is kept as multiplicities: its
mid-ranks are cumulative sums of multiplicities in the order of the whole sample, so no resample is ever sorted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from eval.metrics.correlation import AGGREGATIONS, Aggregation
from eval.metrics.intervals import Interval as Interval
from eval.metrics.intervals import interval as interval
from eval.metrics.intervals import p_value as p_value

CHUNK = 64
"""Resamples computed together: a few thousand pairs times this stay in the processor's cache."""


class RankedResamples:
    """The mid-ranks of one column in any resample, from one sort of the whole sample."""

    def __init__(self, values: Float[np.ndarray, " pairs"]) -> None:
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        group = np.cumsum(np.r_[True, ordered[1:] != ordered[:-1]]) - 1
        self.first = starts[group]
        self.end = np.r_[starts[1:], len(values)][group]
        self.has_ties = len(starts) < len(values)

    def ranks(self, counts: Float64[np.ndarray, "pairs chunk"]) -> Float64[np.ndarray, "pairs chunk"]:
        """Mid-ranks minus 1/2, in this column's own order, given multiplicities in that order."""
        below = np.cumsum(counts, axis=0)
        if not self.has_ties:
            return np.asarray(below - counts / 2)
        padded = np.concatenate([np.zeros_like(below[:1]), below])
        return np.asarray((padded[self.first] + padded[self.end]) / 2)


class Bootstrap:
    """Seeded resamples of a task's pairs, and any system's correlation in each of them."""

    def __init__(
        self,
        gold: Float[np.ndarray, " pairs"],
        subsets: Int[np.ndarray, " pairs"],
        *,
        resamples: int,
        seed: int,
    ) -> None:
        self.n = len(gold)
        self.resamples = resamples
        self.seed = seed
        self.members = [np.flatnonzero(subsets == code) for code in np.unique(subsets)]
        self._everything = [np.arange(self.n)]
        self._gold = gold
        self._cache: dict[bool, list[list[_GoldChunk]]] = {}

    def correlations(self, scores: Float64[np.ndarray, " pairs"]) -> Float64[np.ndarray, " resamples"]:
        """Spearman over all pairs of each resample; nan throughout when a score is nan."""
        if np.isnan(scores).any():
            return np.full(self.resamples, np.nan)
        return _correlations(scores, self._gold_chunks(whole=True)[0])

    def aggregations(
        self, scores: Float64[np.ndarray, " pairs"]
    ) -> dict[Aggregation, Float64[np.ndarray, " resamples"]]:
        """All three at once: mean and wmean share the sub-sets' correlations."""
        together = self.correlations(scores)
        if len(self.members) == 1 or np.isnan(scores).any():
            return dict.fromkeys(AGGREGATIONS, together)
        chunks = self._gold_chunks(whole=False)
        parts = np.stack([_correlations(scores[rows], part) for rows, part in zip(self.members, chunks, strict=True)])
        weights = [len(rows) for rows in self.members]
        return {
            "all": together,
            "mean": parts.mean(axis=0),
            "wmean": np.average(parts, axis=0, weights=weights),
        }

    def _gold_chunks(self, whole: bool) -> list[list[_GoldChunk]]:
        """The gold side of every chunk, computed once and shared by all systems."""
        if whole not in self._cache:
            parts = self._everything if whole else self.members
            ranked = [RankedResamples(self._gold[rows]) for rows in parts]
            chunks: list[list[_GoldChunk]] = [[] for _ in parts]
            for counts in self._multiplicities():
                for part, rows, column in zip(chunks, parts, ranked, strict=True):
                    part.append(_GoldChunk.of(column, counts[rows]))
            self._cache[whole] = chunks
        return self._cache[whole]

    def _multiplicities(self) -> Iterator[Float64[np.ndarray, "pairs chunk"]]:
        """How often each pair is drawn. One generator per resample: the chunk size changes nothing."""
        for start in range(0, self.resamples, CHUNK):
            columns = [self._draw(index) for index in range(start, min(start + CHUNK, self.resamples))]
            yield np.stack(columns, axis=1).astype(np.float64)

    def _draw(self, index: int) -> Int[np.ndarray, " pairs"]:
        generator = np.random.default_rng((self.seed, self.n, index))
        return np.bincount(generator.integers(0, self.n, self.n), minlength=self.n)


@dataclass(frozen=True)
class _GoldChunk:
    """Of some resamples: multiplicities, multiplicity times centred gold rank, the gold's norm, mean rank."""

    counts: np.ndarray
    weighted: np.ndarray
    norms: np.ndarray
    middle: np.ndarray

    @classmethod
    def of(cls, column: RankedResamples, counts: Float64[np.ndarray, "pairs chunk"]) -> _GoldChunk:
        ordered = counts[column.order]
        middle = counts.sum(axis=0) / 2
        ranks = column.ranks(ordered) - middle
        weighted = np.empty_like(counts)
        weighted[column.order] = ordered * ranks
        norms = np.einsum("nb,nb,nb->b", ordered, ranks, ranks)
        return cls(counts.astype(np.uint16), weighted.astype(np.float32), norms, middle)


def _correlations(scores: Float64[np.ndarray, " pairs"], chunks: list[_GoldChunk]) -> Float64[np.ndarray, " resamples"]:
    column = RankedResamples(scores)
    return np.concatenate([_chunk_correlations(column, chunk) for chunk in chunks])


def _chunk_correlations(column: RankedResamples, gold: _GoldChunk) -> Float64[np.ndarray, " chunk"]:
    """Weighted Pearson correlation of centred mid-ranks; 0 for a constant side, as in `metrics.spearman`."""
    counts = gold.counts[column.order].astype(np.float64)
    ranks = column.ranks(counts) - gold.middle
    together = np.einsum("nb,nb->b", ranks, gold.weighted[column.order])
    norms = np.einsum("nb,nb,nb->b", counts, ranks, ranks)
    scale = np.sqrt(norms * gold.norms)
    return np.asarray(np.divide(together, scale, out=np.zeros_like(scale), where=scale > 0))
