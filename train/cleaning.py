"""What is doubtful in a source's rows: counted always, left out when `clean` asks for it.

Texts are compared as the decoder reads them, after `model.text_normalization`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from train.config import SourceConfig
from train.table import SourceTable


@dataclass(frozen=True)
class Counts:
    """Rows of a source as read, by what is doubtful about them; the same row may be in several counts."""

    read: int
    empty: int
    """Without a text that they need. They are refused unless `clean` leaves them out."""
    duplicate: int
    """Equal to an earlier row in everything that is used."""
    anchor_is_positive: int
    """Pairs of one text: nothing to learn from."""
    lone_label: int
    """Labelled texts whose label no other text has: always left out, for no batch could match them."""
    dropped: int
    """Rows that are not trained on."""


def clean(
    table: SourceTable, empty: int, source: SourceConfig, normalize: Callable[[str], str]
) -> tuple[SourceTable, Counts]:
    """The rows to train on, and what was found in them; `empty` rows were left out before."""
    duplicates = _later_copies(table, normalize)
    same = _equal_pairs(table, normalize) if table.kind == "pairs" else set()
    unwanted = duplicates | same if source.clean else set()
    labels = Counter(label for row, label in enumerate(table.labels) if row not in unwanted)
    lone = {row for row, label in enumerate(table.labels) if row not in unwanted and labels[label] == 1}
    unwanted |= lone
    counts = Counts(
        read=len(table) + empty,
        empty=empty,
        duplicate=len(duplicates),
        anchor_is_positive=len(same),
        lone_label=len(lone),
        dropped=len(unwanted) + empty,
    )
    kept = table.keep([row for row in range(len(table)) if row not in unwanted]) if unwanted else table
    return kept, counts


def _equal_pairs(table: SourceTable, normalize: Callable[[str], str]) -> set[int]:
    return {row for row, texts in enumerate(table.texts) if normalize(texts[0]) == normalize(texts[1])}


def _later_copies(table: SourceTable, normalize: Callable[[str], str]) -> set[int]:
    """Rows equal to an earlier one, from 16 bytes a row."""
    digests = np.frombuffer(b"".join(table.digests(normalize)), dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort(digests.T)  # stable: the first of equal rows stays first
    equal = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    return set(order[1:][equal].tolist())
