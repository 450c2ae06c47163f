"""Files of texts with a class name, and the texts that stand for the classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from dec2vec.config_yaml import read_mapping
from dec2vec.errors import UserError
from dec2vec.readers import Table, read_table
from eval.task_config import Form


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Texts with the names of their classes."""

    name: str
    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def content_hash(self) -> str:
        """sha256 of texts and labels in order, wherever they were read from."""
        digest = hashlib.sha256()
        for text, label in zip(self.texts, self.labels, strict=True):
            digest.update(f"{text}\0{label}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def codes(self, classes: Sequence[str]) -> Int64[np.ndarray, " texts"]:
        """Positions of the labels in `classes`."""
        place = {label: index for index, label in enumerate(classes)}
        return np.array([place[label] for label in self.labels], dtype=np.int64)


def read_topics(
    path: str | Path, text: str, label: str, *, classes: Sequence[str] = (), split: str = "train"
) -> LabelledTexts:
    """The rows of a table; of `classes` alone when some are named. Whole numbers count as names of classes.

    UserError for a missing column, a blank text or label, or a class without rows.
    """
    table = read_table(path, [text, label], split=split)
    labels = [_label(table, row, label) for row in range(len(table))]
    present = sorted(set(labels))
    missing = next((name for name in classes if name not in present), None)
    if missing is not None:
        raise UserError(f"{table.name}: no row has {label} {missing!r}; the classes are: {_listed(present)}")
    rows = [row for row, name in enumerate(labels) if not classes or name in set(classes)]
    texts = [table.text(row, text) for row in rows]
    return LabelledTexts(Path(table.name).stem, texts, [labels[row] for row in rows])


def label_texts(classes: Sequence[str], form: Form, path: str | Path | None = None) -> list[str]:
    """One text for each class, in their order.

    word: the name itself, underscores read as spaces. definition and examples come from a YAML or JSON file that
    gives each class a text, or a `definition` with a list of `examples`.
    """
    if form == "word":
        texts = [name.replace("_", " ") for name in classes]
    elif path is None:
        raise UserError(f"labels: form {form} needs a file that defines the classes; name it, or take form word")
    else:
        entries = _entries(Path(path))
        absent = [name for name in classes if name not in entries]
        if absent:
            raise UserError(f"{path}: no entry for the class {absent[0]!r} ({len(absent)} are missing); add it")
        texts = [_text(path, name, entries[name], form) for name in classes]
    first: dict[str, str] = {}
    for name, text in zip(classes, texts, strict=True):
        if first.setdefault(text, name) != name:
            raise UserError(f"labels: {first[text]!r} and {name!r} have the same text {text[:40]!r}; tell them apart")
    return texts


def label_examples(path: str | Path) -> list[str]:
    """Every example of a file of definitions, to be kept out of the test texts."""
    return [text for name, entry in _entries(Path(path)).items() for text in _parts(path, name, entry)[1]]


def _entries(path: Path) -> dict[str, object]:
    if path.suffix != ".json":
        return read_mapping(path)
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise UserError(f'{path}: holds a {type(entries).__name__}, not an object {{"class": "definition"}}')
    return entries


def _text(path: str | Path, name: str, entry: object, form: Form) -> str:
    definition, examples = _parts(path, name, entry)
    if form == "definition":
        return definition
    if not examples:
        raise UserError(f"{path}: {name!r} has no examples; add a list of them, or take form definition")
    return f"{definition}: {'; '.join(examples)}"


def _parts(path: str | Path, name: str, entry: object) -> tuple[str, list[str]]:
    """Definition and examples of an entry."""
    if isinstance(entry, str):
        entry = {"definition": entry}
    if not isinstance(entry, dict) or not entry.keys() <= {"definition", "examples"}:
        raise UserError(f"{path}: {name!r} must be a text, or a definition and examples")
    definition, examples = entry.get("definition"), entry.get("examples", [])
    if not isinstance(definition, str) or not definition.strip():
        raise UserError(f"{path}: {name!r} has no definition; write one as text")
    if not isinstance(examples, list) or not all(isinstance(text, str) and text.strip() for text in examples):
        raise UserError(f"{path}: the examples of {name!r} must be a list of texts")
    return definition, examples


def _label(table: Table, row: int, column: str) -> str:
    value = table.rows[row][column]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return table.text(row, column)


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
