"""What is uploaded names no folder of this machine: absolute paths become names, or paths relative to the run.

A report and an adapter hold the paths of the data and of the decoder, which show how a user and their folders are
called. The files in the run folder keep them, as later commands read them there.
"""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_START = r"(?:(?<![\w.~-])|(?<=\\[nrt]))"
"""No path begins within a word, as in a URL or a longer path. The n of a line break in JSON is no part of a word."""
TEXTS = frozenset((".json", ".jsonl", ".md", ".html", ".yaml", ".yml", ".txt", ".csv", ".tsv", ".svg"))
"""Endings of files in which paths are replaced. Others are sent as they are: weights, pictures, a tokenizer's model."""


class PrivatePaths:
    """Replaces the paths of a run's configuration and command, and any other below the user's folders."""

    def __init__(self, run: Path, resolved: Mapping[str, object], words: Sequence[str] | None = None) -> None:
        named = [*_strings(resolved), *(sys.argv if words is None else words)]
        known = {path: Path(path).name for path in named if Path(path).is_absolute() and Path(path).name}
        folders = {str(run.resolve()): ".", str(Path.cwd()): ".", str(Path.home()): "~"}
        found = known | {folder: short for folder, short in folders.items() if len(folder) > 1}
        self._names = {form: short for path, short in found.items() for form in _spellings(path)}
        longest_first = sorted(self._names, key=len, reverse=True)  # a file before the folder that it lies in
        self._pattern = re.compile(rf"{_START}({'|'.join(map(re.escape, longest_first))})(?![\w-])(/?)")

    def hidden(self, text: str) -> str:
        """`text` without them."""
        return self._pattern.sub(self._short, text)

    def _short(self, found: re.Match[str]) -> str:
        name = self._names[found[1]]
        return "" if name == "." and found[2] else name + found[2]

    def hidden_in(self, tree: Any) -> Any:
        """The same for every text of plain data, such as a configuration."""
        if isinstance(tree, str):
            return self.hidden(tree)
        if isinstance(tree, Mapping):
            return {key: self.hidden_in(value) for key, value in tree.items()}
        return [self.hidden_in(item) for item in tree] if isinstance(tree, list | tuple) else tree

    def hidden_file(self, path: Path) -> str | None:
        """What is sent in place of a file; None for one that is sent as it is."""
        if path.suffix.lower() not in TEXTS:
            return None
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return None
        changed = self.hidden(text)
        return None if changed == text else changed


def _strings(tree: object) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _strings(value)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _strings(item)


def _spellings(path: str) -> list[str]:
    """As it is, in JSON, in HTML, and as JSON in HTML."""
    quoted = [json.dumps(path, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True)]
    return list(dict.fromkeys([path, *quoted, html.escape(path), *map(html.escape, quoted)]))
