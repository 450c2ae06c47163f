"""The texts that stand for the classes: their names, or definitions from a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from dec2vec.config.yaml_file import read_mapping
from dec2vec.errors import UserError
from eval.task_config import Form


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
