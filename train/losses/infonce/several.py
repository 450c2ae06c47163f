"""Several right answers to a query, taken together.

P(q) are the positives of query q in the global batch, N(q) the other documents of the batch without those that the
data know to be right answers to q, s = cosine / temperature, and Q is the number of queries:

    mean    1/Q sum over q of 1/|P(q)| sum over p in P(q) of -log(e^s(q,p) / (e^s(q,p) + sum over N(q) of e^s(q,n)))
    sum     1/Q sum over q of -log(S / (S + sum over N(q) of e^s(q,n))), with S the sum over P(q) of e^s(q,p)

`mean` is the supervised contrast of Khosla et al. 2020 with the sum outside the logarithm (L_out), but without the
other positives in a positive's denominator (SINCERE, Feeney & Hughes 2023): a positive is not pushed away by its
siblings. `sum` has the sum inside the logarithm (MIL-NCE, Miech et al. 2020; L_in of Khosla et al. is the same plus
log |P|): it is content if one of the positives is near. In both a text counts once, however many rows have it, and a
query counts once, however many positives it has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from train.distributed.collectives import gather_rows
from train.losses.infonce.candidates import Direction, NegativePool, Pool
from train.losses.infonce.together import Together
from train.losses.infonce.unit_rows import NormalizedMatrix, UnitRows
from train.losses.inputs import NEVER, NO_ANCHOR, NO_ID, PairInputs, Readings, is_first
from train.options.losses import LossConfig


def directions_together(
    local: NormalizedMatrix, rows: PairInputs, config: LossConfig
) -> tuple[list[Direction], list[Pool]]:
    """The directions of the loss with each query's positives taken together, and the pools of candidates."""
    assert rows.readings is not None, "the batch was made for single positives"
    pairs, joint = len(rows.anchors), config.positives == "sum"
    queries, positives = UnitRows(local, rows.anchors), UnitRows(local, rows.documents[:pairs])
    asked, answered = rows.readings.queries, rows.readings.documents[:pairs]
    documents, everyone = Pool.of(UnitRows(local, rows.documents)), _Documents.of(rows, rows.readings)
    batch = _Pairs.of(rows, everyone)
    pools = [documents]
    ignored = batch.answers(rows)
    candidates = ignored.candidates(everyone.texts, everyone.ids)
    kept = everyone.is_kept.nonzero()[:, 0]
    terms = [NegativePool(queries, documents.some(kept), ignored.keys, candidates[:, kept])]
    if config.document_negatives:
        kept = (everyone.is_kept & everyone.is_positive).nonzero()[:, 0]
        terms.append(NegativePool(positives, documents.some(kept), ignored.keys, candidates[:, kept]))
    directions = [Direction(queries, positives, tuple(terms), Together.of(asked, answered, joint=joint))]
    if config.query_negatives or config.symmetric:
        anchors = Pool.of(queries)
        pools.append(anchors)
        askers = batch.askers(rows)
        kept = is_first(gather_rows(asked)[0]).nonzero()[:, 0]
        columns = askers.candidates(batch.queries, batch.ids)[:, kept]
        found = [NegativePool(left, anchors.some(kept), askers.keys, columns) for left in (queries, positives)]
        if config.query_negatives:
            directions = [Direction(queries, positives, (*terms, found[0]), directions[0].together)]
        if config.symmetric:
            back = Together.of(answered, asked, joint=joint)
            directions.append(Direction(positives, queries, (found[1],), back))
    return directions, pools


@dataclass(frozen=True)
class _Ignored:
    """Keys under which a candidate is no negative of a pair: the first `texts` rules are about texts, others on ids."""

    keys: Int[Tensor, "rule local"]
    texts: int

    def candidates(self, texts: Int[Tensor, " doc"], ids: Int[Tensor, " doc"]) -> Int[Tensor, "rule doc"]:
        """The candidates' keys for each rule."""
        return torch.cat([texts.expand(self.texts, -1), ids.expand(len(self.keys) - self.texts, -1)])


@dataclass(frozen=True)
class _Documents:
    """The documents of all ranks. Copies of a text have one id, and are positives if one of them is."""

    texts: Int[Tensor, " doc"]
    ids: Int[Tensor, " doc"]
    is_positive: Bool[Tensor, " doc"]
    is_kept: Bool[Tensor, " doc"]
    """Whether it is the first of those with one vector."""

    @classmethod
    def of(cls, rows: PairInputs, readings: Readings) -> _Documents:
        columns = [rows.document_keys, rows.document_ids, rows.document_anchors, readings.documents]
        texts, ids, anchors, vectors = gather_rows(torch.stack(columns, dim=1))[0].unbind(1)
        names, numbers = torch.unique(texts, return_inverse=True)
        ids, anchors = (
            torch.full_like(names, lowest).scatter_reduce(0, numbers, values, "amax")[numbers]
            for values, lowest in ((ids, NO_ID), (anchors, NO_ANCHOR))
        )
        return cls(texts.contiguous(), ids, anchors != NO_ANCHOR, is_first(vectors))


@dataclass(frozen=True)
class _Pairs:
    """Query and positive of the pairs of all ranks, the positives' ids, and where this rank's pairs stand."""

    queries: Int[Tensor, " pair"]
    positives: Int[Tensor, " pair"]
    ids: Int[Tensor, " pair"]
    mine: slice

    @classmethod
    def of(cls, rows: PairInputs, documents: _Documents) -> _Pairs:
        found, mine = gather_rows(torch.stack([rows.anchor_keys, rows.document_keys[: len(rows.anchors)]], dim=1))
        queries, positives = (column.contiguous() for column in found.unbind(1))
        texts, order = documents.texts.sort()
        ids = documents.ids[order[torch.searchsorted(texts, positives)]]
        return cls(queries, positives, ids.masked_fill(ids == NO_ID, NEVER), mine)

    def answers(self, rows: PairInputs) -> _Ignored:
        """A document is no negative of a pair that is the query's text or one of its right answers, by text or id."""
        queries = self.queries[self.mine]
        known = [] if rows.known is None else rows.known.answers.unbind(1)
        texts = [queries, *_values(queries, self.queries, self.positives), *known]
        has_id = self.ids != NEVER
        ids = _values(queries, self.queries[has_id], self.ids[has_id])
        return _Ignored(torch.stack([*texts, *ids]), len(texts))

    def askers(self, rows: PairInputs) -> _Ignored:
        """A query is no negative of a pair that is the positive's text, or that the positive answers, by text or id."""
        positives, ids = self.positives[self.mine], self.ids[self.mine]
        known = [] if rows.known is None else rows.known.askers.unbind(1)
        has_id = self.ids != NEVER
        by_id = _values(ids, self.ids[has_id], self.queries[has_id])
        texts = [positives, *_values(positives, self.positives, self.queries), *by_id, *known]
        return _Ignored(torch.stack(texts), len(texts))


def _values(
    names: Int[Tensor, " local"], keys: Int[Tensor, " pair"], values: Int[Tensor, " pair"]
) -> tuple[Int[Tensor, " local"], ...]:
    """The values at all places whose key is a name, as columns of a table with a row for each name."""
    ordered, order = keys.sort()
    first = torch.searchsorted(ordered, names)
    counts = torch.searchsorted(ordered, names, right=True) - first
    widest = int(counts.max()) if len(counts) else 0
    columns = []
    for place in range(widest):
        found = values[order[(first + place).clamp(max=len(order) - 1)]]
        columns.append(torch.where(place < counts, found, NEVER))
    return tuple(columns)
