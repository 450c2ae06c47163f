"""Which candidates must not be negatives of a query, because they are the same text or a right answer too.

A rule gives every query and every candidate a key; equal keys under any rule make a false negative. Equal keys are
rare, so a tile's keys are sorted once and each query's are looked up, instead of comparing all of them with all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from train.losses.inputs import NEVER, NO_ID, KnownAnswers

_DENSE = 8  # if one entry in 8 or more is ignored, comparing all keys takes less memory than listing the equal ones


@dataclass(frozen=True)
class PairKeys:
    """Keys of pairs: the query's text, the positive's text, and the positive's id in the data (-1: none)."""

    queries: Int[Tensor, " pair"]
    positives: Int[Tensor, " pair"]
    ids: Int[Tensor, " pair"]
    known: KnownAnswers | None = None
    """Further right answers and queries, as the data have them."""

    def against_documents(self) -> Int[Tensor, "rule pair"]:
        """A document is ignored that is the positive's text, the query's text, a positive of an equal query, or has
        the positive's id, or is a right answer to the query by another row."""
        answers = () if self.known is None else self.known.answers.unbind(1)
        return torch.stack([self.positives, self.queries, self.queries, self._known_ids(), *answers])

    def against_queries(self) -> Int[Tensor, "rule pair"]:
        """A query is ignored that is the query's text, the positive's text, has an equal positive (text or id), or is
        answered by the positive by another row."""
        askers = () if self.known is None else self.known.askers.unbind(1)
        return torch.stack([self.queries, self.positives, self.positives, self._known_ids(), *askers])

    def as_queries(self) -> Int[Tensor, "rule pair"]:
        """The queries as candidates of `against_queries`."""
        return torch.stack([self.queries, self.queries, self.positives, self.ids])

    def _known_ids(self) -> Int[Tensor, " pair"]:
        return self.ids.masked_fill(self.ids == NO_ID, NEVER)


def as_documents(
    texts: Int[Tensor, " doc"], anchors: Int[Tensor, " doc"], ids: Int[Tensor, " doc"]
) -> Int[Tensor, "rule doc"]:
    """Documents as candidates of `against_documents`; `anchors`: the query whose positive each one is, or NO_ANCHOR."""
    return torch.stack([texts, texts, anchors, ids])


def with_rules(columns: Int[Tensor, "rule candidate"], count: int) -> Int[Tensor, "more candidate"]:
    """Candidates with their text as the key of each rule beyond the usual ones, `count` in all."""
    return torch.cat([columns, columns[:1].expand(count - len(columns), -1)])


def false_negatives(
    rows: Int[Tensor, "rule query"], columns: Int[Tensor, "rule candidate"]
) -> Bool[Tensor, "query candidate"]:
    """True where a candidate must not be a negative of a query; a query's own positive is one of those."""
    return (rows[:, :, None] == columns[:, None, :]).any(0)


class SortedKeys:
    """Candidates' keys, sorted within tiles of `width` candidates."""

    def __init__(self, columns: Int[Tensor, "rule candidate"], width: int) -> None:
        self._tiles = [(part, *part.sort(dim=1)) for part in torch.split(columns, width, dim=1)]

    def ignore(self, logits: Float[Tensor, "query tile"], rows: Int[Tensor, "rule query"], tile: int) -> None:
        """Put minus infinity where `false_negatives` is true, for the candidates of tile number `tile`."""
        columns, ordered, order = self._tiles[tile]
        first = torch.searchsorted(ordered, rows)
        counts = torch.searchsorted(ordered, rows, right=True).sub_(first).flatten()
        found = int(counts.sum())
        if found * _DENSE > logits.numel():
            for row, column in zip(rows, columns, strict=True):
                logits.masked_fill_(row[:, None] == column[None, :], -torch.inf)
        elif found:
            logits[_expand(rows, first, counts, order, found)] = -torch.inf


def _expand(
    rows: Int[Tensor, "rule query"],
    first: Int[Tensor, "rule query"],
    counts: Int[Tensor, " ruled"],
    order: Int[Tensor, "rule tile"],
    found: int,
) -> tuple[Int[Tensor, " found"], Int[Tensor, " found"]]:
    """Query and candidate of each of the `found` equal pairs of keys: runs of `counts` sorted candidates from `first`
    on.
    """
    rules, queries = rows.shape
    step = torch.arange(rules, device=rows.device)[:, None] * order.shape[1]
    starts = (first + step).flatten() - (counts.cumsum(0) - counts)
    query = torch.arange(queries, device=rows.device).repeat(rules).repeat_interleave(counts, output_size=found)
    place = starts.repeat_interleave(counts, output_size=found)
    return query, order.flatten()[place + torch.arange(len(place), device=rows.device)]
