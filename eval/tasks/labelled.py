"""Texts with a class each, from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from dec2vec.errors import UserError
from dec2vec.readers import Table, read_table


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Labels as codes into `names`, which are sorted."""

    name: str
    texts: list[str]
    labels: Int64[np.ndarray, " texts"]
    names: list[str]


def read_labelled(path: str | Path, text: str = "text", label: str = "label") -> LabelledTexts:
    """Columns `text` and `label`; a label is text or a whole number. At least two classes are needed."""
    table = read_table(path, [text, label])
    values = [_label(table, index, label) for index in range(len(table))]
    names = sorted(set(values))
    if len(names) < 2:
        raise UserError(f"{table.name}: every {label} is {names[0]!r}; telling classes apart needs two")
    code = {name: index for index, name in enumerate(names)}
    labels = np.array([code[value] for value in values], dtype=np.int64)
    return LabelledTexts(Path(table.name).stem, table.texts(text), labels, names)


def _label(table: Table, index: int, column: str) -> str:
    value = table.rows[index][column]
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise UserError(f"{table.where(index)}: {column} {value!r} is no class; give text or a whole number")
    return str(value)
