"""Paths as users write them: `~` is the home folder, and a name must be one that the environment can encode."""

from __future__ import annotations

import re
from pathlib import Path

from dec2vec.errors import UserError, why_not_encoded

_HOME = re.compile(r"~[\w.-]*(/.*)?")
_TEXTS = frozenset({"prompt", "prompts", "task", "query_prompt", "document_prompt"})
"""Options that hold text, which is never a path."""


def expanded(tree: object, name: str = "") -> object:
    """A copy of a configuration in which every `~` at the start of a value is the home folder.

    UserError for a value that this environment cannot use as the name of a file.
    """
    if isinstance(tree, dict):
        return {key: expanded(item, f"{name}.{key}".lstrip(".")) for key, item in tree.items()}
    if isinstance(tree, list):
        return [expanded(item, name) for item in tree]
    if not isinstance(tree, str) or name.rpartition(".")[2] in _TEXTS:
        return tree
    problem = why_not_encoded(tree)
    if problem is not None:
        raise UserError(f"config error: {name}: {problem}")
    if not _HOME.fullmatch(tree):
        return tree
    try:
        return str(Path(tree).expanduser())
    except RuntimeError:  # no such user, or no home
        return tree
