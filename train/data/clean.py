"""Doubtful rows of a source: always counted, and dropped if `clean` is set.

Texts are compared after `model.text_normalization`, as the decoder reads them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from train.data.table import SourceTable
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
    same = _equal_pairs(table, normalize) if table.kind == "pairs" else set()
    unwanted = duplicates | same if source.clean else set()
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
        lone = {row for row, label in enumerate(table.labels) if labels[label] == 1}
        counts = replace(counts, lone_label=len(lone), dropped=counts.dropped + len(lone))
        result.append((_without(table, lone), counts))
    return result


def _without(table: SourceTable, unwanted: set[int]) -> SourceTable:
    return table.keep([row for row in range(len(table)) if row not in unwanted]) if unwanted else table


def _equal_pairs(table: SourceTable, normalize: Callable[[str], str]) -> set[int]:
    return {row for row, texts in enumerate(table.texts) if normalize(texts[0]) == normalize(texts[1])}


def _later_copies(table: SourceTable, normalize: Callable[[str], str]) -> set[int]:
    """Numbers of rows that equal an earlier one, by digests of 16 bytes per row."""
    digests = np.frombuffer(b"".join(table.digests(normalize)), dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort(digests.T)  # stable: the first of equal rows stays first
    equal = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    return set(order[1:][equal].tolist())
