"""`--help` of a configuration: each option with the kind of its value, its sentence, and its present value.

Sentences are the strings under the fields. They are read from the source with `ast`: importing a command-line
library for this took longer than the half second that `dec2vec train --help` may take.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dec2vec.config.overrides import section_types, union_members

_KINDS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false", NoneType: "none"}


def help_text(cls: type, config: Any, usage: str) -> str:
    """The page for `cls`, with the values of `config` (an instance, or None when it cannot be made)."""
    width = min(shutil.get_terminal_size().columns, 110)
    head = f"usage: {usage} [--option value ...]\n\n{_first_line(cls)}\n\n"
    return head + "\n".join(_lines(cls, config, "", width)) + "\n"


def _lines(cls: type, config: Any, prefix: str, width: int) -> Iterator[str]:
    hints, sections, sentences = get_type_hints(cls), section_types(cls), _sentences(cls)
    for field in sorted(dataclasses.fields(cls), key=lambda field: (field.name in sections, _depth(cls, field.name))):
        name, value = field.name, None if config is None else getattr(config, field.name)
        if name not in sections:
            yield f"  --{prefix}{name} {_kind(hints[name])}"
            sentence = f"{sentences.get(name, '')} ({_now(field, config, value)})"
            yield textwrap.fill(
                sentence, width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
            )
            continue
        section, is_list = sections[name]
        yield f"\n{prefix}{name}: {_first_line(section)}"
        if not is_list:
            yield from _lines(section, value, f"{prefix}{name}.", width)
        for position, item in enumerate((value or (None,)) if is_list else ()):
            yield from _lines(section, item, f"{prefix}{name}.{position}.", width)


def _kind(annotation: Any) -> str:
    """`INT|none`, `{auto,never}`, `TEXT ...`."""
    kinds = []
    for member in union_members(annotation):
        if get_origin(member) is Literal:
            kinds.append("{" + ",".join(map(str, get_args(member))) + "}")
        elif get_origin(member) is tuple:
            kinds.append(f"{_kind(get_args(member)[0])} ...")
        else:
            kinds.append(_KINDS[member])
    return "|".join(kinds)


def _now(field: dataclasses.Field[Any], config: Any, value: object) -> str:
    if config is None:
        if field.default is dataclasses.MISSING:
            return "required"
        value = field.default
    if value is None or isinstance(value, bool):
        return f"now: {str(value).lower()}"
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"now: {text or 'empty'}"


def _depth(cls: type, name: str) -> int:
    """How many classes up an option is declared: a class's own options come before those it shares with others."""
    return next(depth for depth, base in enumerate(cls.__mro__) if name in inspect.get_annotations(base))


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").partition("\n")[0]


@cache
def _sentences(cls: type) -> dict[str, str]:
    """Field -> the string below it."""
    inherited = {name: text for base in reversed(cls.__mro__[1:-1]) for name, text in _sentences(base).items()}
    body = next((node.body for node in _classes(cls.__module__) if node.name == cls.__name__), [])
    return inherited | {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


@cache
def _classes(module: str) -> list[ast.ClassDef]:
    path = sys.modules[module].__file__
    if path is None:
        return []
    return [node for node in ast.parse(Path(path).read_bytes()).body if isinstance(node, ast.ClassDef)]
