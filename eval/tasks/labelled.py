"""Texts with the name of a class each, from a file: for topics and for clustering."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from dec2vec.errors import UserError
from dec2vec.files.tables import read_table
from eval.tasks.columns import ColumnsRead, columns_read


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Texts with the names of their classes."""

    name: str
    texts: list[str]
    labels: list[str]
    columns: ColumnsRead | None = None
    """Of the file that they were read from."""

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def content_hash(self) -> str:
        """sha256 of texts and labels in order, wherever they were read from."""
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.labels, strict=True):
            digest.update(f"{text}\0{label}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @cached_property
    def classes(self) -> list[str]:
        """The names that occur, sorted."""
        return sorted(set(self.labels))

    @property
    def items(self) -> list[tuple[str, ...]]:
        """Each text on its own."""
        return [(text,) for text in self.texts]

    def at(self, rows: Int64[np.ndarray, " kept"]) -> LabelledTexts:
        """Some of them, in this order."""
        return replace(self, texts=[self.texts[row] for row in rows], labels=[self.labels[row] for row in rows])

    def codes(self, classes: Sequence[str]) -> Int64[np.ndarray, " texts"]:
        """Indices of the labels in `classes`."""
        code = {label: index for index, label in enumerate(classes)}
        return np.array([code[label] for label in self.labels], dtype=np.int64)


def read_labelled(
    path: str | Path,
    text: str = "text",
    label: str = "label",
    *,
    classes: Sequence[str] = (),
    split: str = "train",
    limit: int | None = None,
) -> LabelledTexts:
    """The first `limit` rows of a table; of `classes` alone when some are named. Whole numbers are names of classes.

    UserError for a missing column, a blank text or label, or a class without rows.
    """
    table = read_table(path, [text, label], split=split, limit=limit)
    labels = [table.label(row, label) for row in range(len(table))]
    present = sorted(set(labels))
    missing = next((name for name in classes if name not in present), None)
    if missing is not None:
        raise UserError(f"{table.name}: no row has {label} {missing!r}; the classes are: {_listed(present)}")
    rows = [row for row, name in enumerate(labels) if not classes or name in set(classes)]
    texts = [table.text(row, text) for row in rows]
    columns = columns_read(table, [text, label])
    return LabelledTexts(Path(table.name).stem, texts, [labels[row] for row in rows], columns)


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
