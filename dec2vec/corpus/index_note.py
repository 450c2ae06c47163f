"""`INDEX.json`, which `dec2vec index` writes beside an index: what it holds and how much it finds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dec2vec.files.atomic import atomic_write_text, written


@dataclass(frozen=True)
class IndexNote:
    """`recall_at_10` is the fraction of the exact ten nearest rows that the index found, on a sample of its rows."""

    kind: str
    rows: int
    dimension: int
    recall_at_10: float


def write_index_note(note: IndexNote, index: Path) -> None:
    """Write the note of an index."""
    path = _path(index)
    with written(path):
        atomic_write_text(path, json.dumps(asdict(note)) + "\n")


def read_index_note(index: Path, rows: int, dimension: int) -> IndexNote | None:
    """The note of an index of this size; None if there is none, or one of another index."""
    try:
        note = TypeAdapter(IndexNote).validate_json(_path(index).read_bytes())
    except (OSError, ValidationError, ValueError):
        return None
    return note if (note.rows, note.dimension) == (rows, dimension) else None


def _path(index: Path) -> Path:
    return index.with_name(f"{index.name}.json")
