"""Dev and test rows that are given to `dec2vec.evaluate`: files for as long as the evaluation takes.

Unlike the rows of a training, no later process asks for them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dec2vec.errors import UserError
from dec2vec.files.given_rows import are_rows
from dec2vec.files.kept_rows import keep_rows

SECTIONS = ("pairs", "gap", "topics", "clustering")
"""Sections of an evaluation whose entries have a file of test rows."""


@contextlib.contextmanager
def with_given(config: Any, dev: object, tests: object) -> Iterator[Any]:
    """The configuration of an evaluation, with files in the place of the rows that are given; None gives none.

    Messages call them dev, tests or tests[1].
    """
    names: dict[Path, str] = {}
    with tempfile.TemporaryDirectory() as place:
        try:
            yield _with_tests(_with_dev(config, dev, Path(place), names), tests, Path(place), names)
        except UserError as error:
            raise type(error)(_renamed(str(error), names)) from error


def _with_dev(config: Any, dev: object, place: Path, names: dict[Path, str]) -> Any:
    if dev is None:
        return config
    if config.dev:
        raise UserError(f"dev: config names dev {config.dev} too; give one of them")
    return replace(config, dev=_file(dev, "dev", "dev", place, names))


def _with_tests(config: Any, tests: object, place: Path, names: dict[Path, str]) -> Any:
    """The tables for the entries without a test, section by section, or else as similarity tests."""
    if tests is None:
        return config
    is_one = isinstance(tests, (str, os.PathLike)) or are_rows(tests)
    tables: list[object] = [tests] if is_one or not isinstance(tests, Iterable) else [*tests]
    empty = [(name, at) for name in SECTIONS for at, task in enumerate(getattr(config, name)) if not task.test]
    if empty and len(empty) != len(tables):
        raise UserError(
            f"tests: {len(tables)} given, but {len(empty)} of the tasks in config have no test; give tests for each "
            "task without a test"
        )
    if not empty and config.tests:
        raise UserError(f"tests: config names tests {', '.join(config.tests)} too; give all of them in one place")
    called = ["tests"] if is_one else [f"tests[{number}]" for number in range(len(tables))]
    stems = ["tests"] if is_one else [f"tests-{number}" for number in range(len(tables))]
    files = [_file(*table, place, names) for table in zip(tables, called, stems, strict=True)]
    if not empty:
        return replace(config, tests=tuple(files))
    for (section, at), file in zip(empty, files, strict=True):
        entries = list(getattr(config, section))
        entries[at] = replace(entries[at], test=file)
        config = replace(config, **{section: tuple(entries)})
    return config


def _file(given: object, name: str, stem: str, place: Path, names: dict[Path, str]) -> str:
    """The rows as a file that the report calls by its stem, or the file that was named instead."""
    if isinstance(given, (str, os.PathLike)):
        return str(given)
    path = keep_rows(given, place, stem).replace(place / f"{stem}.jsonl")
    names[path] = name
    return str(path)


def _renamed(message: str, names: dict[Path, str]) -> str:
    """A message about rows, without the file that they are in."""
    for path, name in names.items():
        message = message.replace(f"{path} line ", f"{name} row ").replace(str(path), name)
    return message
