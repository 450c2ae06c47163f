"""Doubtful rows of a source: always counted, and dropped if `clean` is set.

Texts are compared after `model.text_normalization`, as the decoder reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from train.data.sampler import Indices
from train.data.shared_texts import hashes, repeated
from train.data.spill import Spill
from train.data.stored import BLOCK, StoredTexts, cut, stored_table, text_spans
from train.data.table import SourceTable, encoded_row, row_digest
from train.options.data import SourceConfig


@dataclass(frozen=True)
class Counts:
    """Numbers of rows of a source, by what is doubtful about them. A row may be in several counts."""

    read: int
    empty: int
    """Rows with an empty text. They are refused unless `clean` drops them."""
    duplicate: int
    """Rows equal to an earlier row in everything that is used."""
    anchor_is_positive: int
    """Pairs whose anchor equals the positive: there is nothing to learn from them."""
    lone_label: int
    """Labelled texts whose label no other text has. They are always dropped, because nothing could match them."""
    dropped: int
    """Rows that are not trained on."""


def clean(
    table: SourceTable, empty: int, source: SourceConfig, normalize: Callable[[str], str]
) -> tuple[SourceTable, Counts]:
    """The rows to train on, before lone labels are dropped, and their counts. `empty` rows were dropped before."""
    duplicates = _later_copies(table, normalize)
    same = _equal_pairs(table, normalize) if table.kind == "pairs" else np.empty(0, dtype=np.int64)
    unwanted = np.union1d(duplicates, same) if source.clean else np.empty(0, dtype=np.int64)
    counts = Counts(
        read=len(table) + empty,
        empty=empty,
        duplicate=len(duplicates),
        anchor_is_positive=len(same),
        lone_label=0,
        dropped=len(unwanted) + empty,
    )
    return _without(table, unwanted), counts


def leave_out_lone(found: Sequence[tuple[SourceTable, Counts]]) -> list[tuple[SourceTable, Counts]]:
    """Drop texts whose label no other text has in these sources, which share their batches."""
    labels = Counter(chain.from_iterable(table.labels for table, _ in found))
    result = []
    for table, counts in found:
        is_lone = np.fromiter((labels[label] == 1 for label in table.labels), dtype=bool, count=len(table.labels))
        lone = np.flatnonzero(is_lone)
        counts = replace(counts, lone_label=len(lone), dropped=counts.dropped + len(lone))
        result.append((_without(table, lone), counts))
    return result


def _without(table: SourceTable, unwanted: Indices) -> SourceTable:
    if not len(unwanted):
        return table
    if isinstance(table.texts, StoredTexts):
        return stored_table(table.kind, table.texts.rows.without(unwanted), table.named())
    return table.keep(np.setdiff1d(np.arange(len(table)), unwanted).tolist())


def _equal_pairs(table: SourceTable, normalize: Callable[[str], str]) -> Indices:
    if isinstance(table.texts, StoredTexts) and normalize is str:
        blocks = table.texts.rows.blocks()
        return np.flatnonzero(np.concatenate([np.empty(0, dtype=bool), *(_equal_texts(*block) for block in blocks)]))
    pairs = ((normalize(texts[0]), normalize(texts[1])) for texts in table.texts)
    return np.flatnonzero(np.fromiter((first == second for first, second in pairs), dtype=bool, count=len(table)))


def _equal_texts(data: bytes, starts: Indices) -> NDArray[np.bool_]:
    """For each row of a block of stored pairs whether its first two texts are equal."""
    anchors, positives = text_spans(data, starts)
    found: NDArray[np.bool_] = anchors[1] - anchors[0] == positives[1] - positives[0]
    rows = np.flatnonzero(found)
    found[rows] = [
        first == second
        for first, second in zip(
            cut(data, (anchors[0][rows], anchors[1][rows])),
            cut(data, (positives[0][rows], positives[1][rows])),
            strict=True,
        )
    ]
    return found


def _later_copies(table: SourceTable, normalize: Callable[[str], str]) -> Indices:
    """Numbers of rows that equal an earlier one, by digests of 16 bytes per row."""
    if isinstance(table.texts, StoredTexts):
        return _later_stored_copies(table, table.texts, normalize)
    return _later(np.frombuffer(b"".join(table.digests(normalize)), dtype=np.int64).reshape(-1, 2))


def _later(digests: Indices) -> Indices:
    order = np.lexsort(digests.T)  # stable: the first of equal rows stays first
    equal = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    found: Indices = np.sort(order[1:][equal])
    return found


def _later_stored_copies(table: SourceTable, texts: StoredTexts, normalize: Callable[[str], str]) -> Indices:
    """The same in little memory. Digests are made of those rows alone whose hash another row has."""
    shared = texts.rows.shared  # a copy has the anchor and the positive of another row
    is_suspect = repeated(_row_hashes(table, texts, normalize), len(table)) if shared is None else shared
    suspects = np.flatnonzero(is_suspect.all(axis=0))
    spill = Spill(3)
    for number in suspects.tolist():
        digest = np.frombuffer(row_digest(texts.changed(number, normalize)), dtype=np.int64)
        spill.add(np.array([[*digest, number]], dtype=np.int64))
    equal = [part[1:, 2][(part[1:, :2] == part[:-1, :2]).all(axis=1)] for part in spill.parts()]
    return np.sort(np.concatenate([*equal, np.empty(0, dtype=np.int64)]))


def _row_hashes(table: SourceTable, texts: StoredTexts, normalize: Callable[[str], str]) -> Iterator[Indices]:
    if normalize is str:  # then the bytes of a row say as much as its texts
        for data, starts in texts.rows.blocks():
            yield hashes(cut(data, (starts[:-1], starts[1:])))[:, None]
    else:
        contents = table.contents(normalize)
        while rows := [encoded_row(row) for row in islice(contents, BLOCK)]:
            yield hashes(rows)[:, None]
