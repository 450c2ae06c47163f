"""What is doubtful in a source's rows: counted always, left out when `clean` asks for it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

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


def clean(table: SourceTable, empty: int, source: SourceConfig) -> tuple[SourceTable, Counts]:
    """The rows to train on, and what was found in them; `empty` rows were left out before."""
    duplicates = _later_copies(table)
    same = {row for row, texts in enumerate(table.texts) if table.kind == "pairs" and texts[0] == texts[1]}
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


def _later_copies(table: SourceTable) -> set[int]:
    seen: set[bytes] = set()
    copies = set()
    for row, digest in enumerate(table.digests()):
        if digest in seen:
            copies.add(row)
        seen.add(digest)
    return copies
