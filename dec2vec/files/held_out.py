"""Pairs that are held out of the training data, and samples of texts: both by a hash of the text.

A hash gives the same choice whatever the order of the rows, the seed of the run and the number of processes, so that
runs are compared on the same queries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.int64]
SHARED = 10
"""A query whose texts more than this many other rows share is not held out: all of them would leave training."""
NO_DOCUMENT = -1
"""In place of the key of a document where a row names none."""

Reading = tuple[str | None, str | None]
"""A prompt and an instruction; None stands for the model's."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Queries that search for their positives among documents, each in the prompt and with the instruction that it is
    trained in."""

    queries: list[str]
    documents: list[str]
    relevant: list[list[int]]
    """For each query the numbers of its documents."""
    query_prompts: list[Reading]
    document_prompts: list[Reading]
    passed_over: int = 0
    """Queries that would have been chosen, had not more than `SHARED` other rows shared a text with them."""

    @cached_property
    def content_hash(self) -> str:
        """sha256 of queries and documents."""
        digest = hashlib.sha256()
        for text in (*self.queries, "", *self.documents):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """Rows by their numbers, in ascending order."""

    held: Keys
    """Rows of the held-out queries."""
    dropped: Keys
    """Further rows that share a text or a document with them, which are not trained on either."""
    queries: int
    passed_over: int


def text_key(text: str) -> int:
    """63 bits that are equal for equal texts in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def text_keys(texts: Iterable[str]) -> Keys:
    """The key of each text."""
    return np.fromiter(map(text_key, texts), dtype=np.int64)


def sample(texts: Sequence[str], limit: int | None) -> Keys:
    """The numbers of the `limit` texts with the smallest keys, in ascending order; those of all texts without a limit.

    Of equal texts the earlier one comes first.
    """
    if limit is None or limit >= len(texts):
        return np.arange(len(texts), dtype=np.int64)
    return np.sort(np.argsort(text_keys(texts), kind="stable")[:limit]).astype(np.int64)


def hold_out(anchors: Keys, positives: Keys, count: int, ids: Keys | None = None) -> Split:
    """Choose the rows of `count` different anchors, those with the smallest keys; fewer if there are no more.

    Rows with an equal key in `ids` (`NO_DOCUMENT`: none) were made of one document. If one of them is held out, the
    others are not trained on, and their anchors are not held out either: their positives would be right answers too.

    An anchor is passed over if more than `SHARED` rows besides its own have one of its texts as anchor or positive, as
    where all rows of a class have the name of the class for their positive.
    """
    rows = _Rows(np.concatenate([anchors, positives]), len(anchors))
    documents = _Documents(np.full(len(anchors), NO_DOCUMENT) if ids is None else ids)
    state = np.zeros(len(anchors), dtype=np.int8)  # 1: dropped, 2: held out
    taken = np.zeros(len(anchors), dtype=np.bool_)  # rows of the documents of held-out rows
    queries = passed_over = 0
    for anchor in np.unique(anchors):
        if queries == count:
            break
        own = rows.of(anchor)
        own = own[anchors[own] == anchor]
        if taken[own].any():
            continue
        texts = np.unique(np.append(positives[own], anchor))
        related = np.unique(np.concatenate([rows.of(text) for text in texts]))
        further = np.setdiff1d(related, own, assume_unique=True)
        if len(further) > SHARED:
            passed_over += 1
            continue
        same = documents.of(related[np.isin(positives[related], positives[own])])
        taken[same] = True
        further = np.union1d(further, same)
        state[further] = np.maximum(state[further], 1)
        state[own] = 2
        queries += 1
    return Split(np.flatnonzero(state == 2), np.flatnonzero(state == 1), queries, passed_over)


class _Documents:
    """The rows that were made of the documents of other rows."""

    def __init__(self, ids: Keys) -> None:
        self._ids, self._rows = ids, _Rows(ids, len(ids))

    def of(self, rows: Keys) -> Keys:
        """All rows of the documents of these ones."""
        names = np.unique(self._ids[rows])
        found = [self._rows.of(name) for name in names[names != NO_DOCUMENT]]
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


class _Rows:
    """The rows in which a key occurs, of a text as anchor or as positive."""

    def __init__(self, keys: Keys, count: int) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._keys, self._count = keys[self._order], count

    def of(self, key: np.int64) -> Keys:
        """Without repetition, in ascending order."""
        low, high = np.searchsorted(self._keys, [key, key + 1])
        return np.unique(self._order[low:high] % self._count)
