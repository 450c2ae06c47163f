"""`--help` of a configuration: each option with the kind of its value, its docstring, and its present value.

Pydantic finds the docstrings below the fields (`use_attribute_docstrings`). The page takes less than half a second,
which leaves no time for importing a command-line library.
"""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dec2vec.config.overrides import has_plain_value, section_types, union_members

_KINDS = {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false", NoneType: "none"}


def help_text(cls: type, config: Any, usage: str) -> str:
    """The help page for `cls`, with the values of `config` (None if there is no valid configuration)."""
    width = min(shutil.get_terminal_size().columns, 110)
    head = f"usage: {usage} [--option value ...]\n\n{_first_line(cls)}\n\n"
    return head + "\n".join(_lines(cls, config, "", width, {})) + "\n"


def _lines(cls: type, config: Any, prefix: str, width: int, optional: dict[type, str]) -> Iterator[str]:
    """`optional` has the sections that may be left out, and where they are explained: each is explained once."""
    hints, sections = get_type_hints(cls), section_types(cls)
    for field in sorted(dataclasses.fields(cls), key=lambda field: (field.name in sections, _depth(cls, field.name))):
        name, value = field.name, None if config is None else getattr(config, field.name)
        if name not in sections or has_plain_value(hints[name]):
            yield f"  --{prefix}{name} {_kind(hints[name])}"
            text = f"{_sentence(cls, name)} ({_now(field, config, value)})"
            yield textwrap.fill(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)
        if name not in sections:
            continue
        section, is_list = sections[name]
        if NoneType in union_members(hints[name]) and not is_list and value is None and section in optional:
            yield f"\n{prefix}{name}: as {optional[section]}"
            continue
        optional.setdefault(section, f"{prefix}{name}")
        yield f"\n{prefix}{name}: {_first_line(section)}"
        if not is_list:
            yield from _lines(section, value, f"{prefix}{name}.", width, optional)
        items = [item for item in value if not isinstance(item, str)] if isinstance(value, tuple) else []
        for position, item in enumerate((items or (None,)) if is_list else ()):
            yield from _lines(section, item, f"{prefix}{name}.{position}.", width, optional)


def _kind(annotation: Any) -> str:
    """`INT|none`, `{auto,never}`, `TEXT ...`."""
    kinds = []
    for member in union_members(annotation):
        if get_origin(member) is Literal:
            kinds.append("{" + ",".join(map(str, get_args(member))) + "}")
        elif get_origin(member) is tuple:
            kinds.append(f"{_kind(get_args(member)[0])} ...")
        elif not dataclasses.is_dataclass(member):
            kinds.append(_KINDS[member])
    return "|".join(dict.fromkeys(kinds))


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


def _sentence(cls: type, name: str) -> str:
    """The docstring below a field, on one line. Pydantic keeps it in the class that declares the field."""
    owner: Any = cls.__mro__[_depth(cls, name)]
    return " ".join((owner.__pydantic_fields__[name].description or "").split())
