"""What differs between two report.json: every key of the old one must be there with the same value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from golden_runs.cases import Finding
from golden_runs.renames import PRIVATE, RENAMED, VALUES
from golden_runs.trees import without_positions

EXCLUDED = (
    "provenance.command",
    "provenance.versions",
    "provenance.config_sha256",
    "provenance.seconds",
    "provenance.model.name_or_path",
    "provenance.whitening_fit.files",
    "costs.*.seconds",
)
"""What names a place, a time, a version or the command that was typed; the keys must be there."""
PROSE = ("notes.*", "tasks.*.note", "tasks.*.chosen", "provenance.protocol.*")
"""Sentences, of which only the figures count."""
_ROW = ("system", "task", "metric")
"""What a row measures; those of a task's own table do not name the task."""
_MISSING = object()


def compare_reports(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Finding]:
    """One finding for each part of the report, and one that lists new keys."""
    for part, value in in_present_words(old, new).items():
        found = list(differences(value, new.get(part, _MISSING), part))
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield Finding(f"{name} {part}", _size(value), f"{found[0]}{more}" if found else "")
    added = sorted(set(additions(in_present_words(old, new), new, "")))
    yield Finding(f"{name} new keys", ", ".join(added) or "none")


def in_present_words(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The old report with the options of its recipes under the names and words that the new one has for them."""
    provenance = dict(old["provenance"])
    theirs = new.get("provenance", {}).get("recipes", {})
    provenance["recipes"] = {run: _recipe(recipe, theirs.get(run, {})) for run, recipe in provenance["recipes"].items()}
    return {**old, "provenance": provenance}


def _recipe(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in old.items():
        present = name if name in new else RENAMED["train"].get(name, name)
        word = VALUES.get(name, {}).get(str(value), value)
        if present in new or without_positions(name) not in PRIVATE["train"]:
            found[present] = word if new.get(present) == word else value
    return found


def differences(old: Any, new: Any, path: str) -> Iterator[str]:
    """Where the old value is missing or another one in the new report."""
    if new is _MISSING:
        yield f"{path} is missing"
    elif any(fnmatchcase(path, pattern) for pattern in EXCLUDED):
        return
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for key, value in old.items():
            yield from differences(value, new.get(key, _MISSING), f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list):
        yield from _list_differences(old, new, path)
    elif not _equal(old, new, path):
        yield f"{path}: {old!r} is now {new!r}"


def additions(old: Any, new: Any, path: str) -> Iterator[str]:
    """Keys that only the new report has; those of all items of a list under one name."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key, value in new.items():
            inner = f"{path}.{key}".lstrip(".")
            yield from additions(old[key], value, inner) if key in old else [inner]
    elif isinstance(old, list) and isinstance(new, list):
        for before, after in zip(old, new, strict=False):
            yield from additions(before, after, f"{path}[]")


def _list_differences(old: Sequence[Any], new: Sequence[Any], path: str) -> Iterator[str]:
    """Rows of figures are found by what they measure, wherever they stand; other items by their positions."""
    if _are_rows(old) and _are_rows(new):
        rows = {_identity(row): row for row in new}
        for row in old:
            name = _identity(row)
            yield from differences(row, rows.get(name, _MISSING), f"{path}.{'|'.join(name)}")
        added = [name for name in rows if name not in set(map(_identity, old))]
        if added:
            yield f"{path}: {len(added)} new rows, such as {'|'.join(added[0])}"
    elif len(old) != len(new):
        yield f"{path}: {len(old)} items are now {len(new)}"
    else:
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{path}.{number}")


def _are_rows(items: Sequence[Any]) -> bool:
    rows = [item for item in items if isinstance(item, Mapping) and "system" in item and "metric" in item]
    return bool(items) and len(rows) == len(items) == len(set(map(_identity, rows)))


def _identity(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in _ROW if key in row)


def _equal(old: Any, new: Any, path: str) -> bool:
    if isinstance(old, str) and isinstance(new, str) and any(fnmatchcase(path, pattern) for pattern in PROSE):
        return _figures(old) == _figures(new)
    return bool(old == new)


def _figures(text: str) -> list[str]:
    return re.findall(r"\d+(?:[.,]\d+)*", text)


def _size(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} items"
    return f"{len(value)} keys" if isinstance(value, Mapping) else str(value)
