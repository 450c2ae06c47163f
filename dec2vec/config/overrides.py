"""Dotted overrides: `--optim.lr 1e-4`, `--data.0.path pairs.jsonl`, `--eval.tests a b`, `--seed=3`."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from dec2vec.config.renames import why_refused
from dec2vec.errors import UserError


def options(cls: type) -> list[str]:
    """Every option by its dotted name; `N` stands for a position in a list of sections (`data.N.path`)."""
    return list(_option_types(cls))


def unknown_option(name: str, cls: type) -> str:
    """The message for an option that `cls` does not have, with its present name or a similar one."""
    return why_refused(name, options(cls)) or _why_no_value(name, cls) or f"unknown option{_suggestion(name, cls)}"


def _why_no_value(name: str, cls: type) -> str | None:
    """The message for the name of a section that is given a value; None for other names."""
    pattern = re.sub(r"\.\d+(?=\.|$)", ".N", name)
    inside = [option for option in options(cls) if option.startswith((f"{pattern}.", f"{pattern}.N."))]
    if not inside:
        return None
    shown = ", ".join(option.replace(".N", ".0") for option in inside[:3])
    more = f" and {len(inside) - 3} more (--help)" if len(inside) > 3 else ""
    return f"this is a section with the options {shown}{more}{section_hint(name)}"


def section_hint(name: str) -> str:
    """What a user may have meant who gives a section a value, such as `--lora none`."""
    return "; --lora.method full trains every weight without adapters" if name == "lora" else ""


def _suggestion(name: str, cls: type) -> str:
    known = options(cls)
    pattern = re.sub(r"\.\d+(?=\.|$)", ".N", name)
    close = difflib.get_close_matches(pattern, known, n=1, cutoff=0.6)
    if not close:
        tails = {option.rpartition(".")[2]: option for option in reversed(known)}
        tail = pattern.rpartition(".")[2]
        close = [tails[match] for match in difflib.get_close_matches(tail, tails, n=1, cutoff=0.75)]
    if not close:
        return "; --help lists the options"
    positions = iter(re.findall(r"\.(\d+)(?=\.|$)", name))
    return "; did you mean " + re.sub(r"\.N(?=\.|$)", lambda _: f".{next(positions, 0)}", close[0]) + "?"


def merge_overrides(cls: type, raw: dict[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """A copy of `raw` with the overrides. Only names are checked here; `validate` checks the values.

    A list option may come several times, and its values add up; of another the last one counts.
    """
    merged = copy.deepcopy(raw)
    types = _option_types(cls)
    lists: dict[str, list[object]] = {}
    for typed, values in _split(overrides):
        name, annotation = typed, _lookup(types, typed)
        if annotation is None and not values:  # --no_normalize, --lora.no_dora
            name = re.sub(r"(^|\.)no_(?=\w+$)", r"\1", typed)
            annotation = bool if union_members(_lookup(types, name)) == (bool,) else None
            values = ["false"]
        if annotation is None:
            problem = why_refused(name, types) or unknown_option(typed, cls)
            raise UserError(f"config error: --{typed}: {problem}")
        value = _value(name, annotation, values)
        if isinstance(value, list):
            value = lists[name] = [*lists.get(name, []), *value]
        _assign(merged, name, value)
    return merged


def section_types(cls: type) -> dict[str, tuple[Any, bool]]:
    """Fields of `cls` that are, or may be, sections themselves: name -> (dataclass, whether it is a list of them)."""
    hints = get_type_hints(cls).items()
    return {name: found for name, hint in hints if (found := _section(hint)) is not None}


def _section(annotation: Any) -> tuple[Any, bool] | None:
    for kind in union_members(annotation):
        items = union_members(get_args(kind)[0]) if get_origin(kind) is tuple else (kind,)
        for item in items:
            if dataclasses.is_dataclass(item):
                return item, get_origin(kind) is tuple
    return None


def has_plain_value(annotation: Any) -> bool:
    """Whether an option that may be a section, or a list of them, may also be a text or a list of texts."""
    kinds = union_members(annotation)
    return any(str in (union_members(get_args(kind)[0]) if get_origin(kind) is tuple else (kind,)) for kind in kinds)


@cache
def _option_types(cls: type) -> dict[str, Any]:
    hints, sections = get_type_hints(cls), section_types(cls)
    found: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(cls)):
        if name not in sections or has_plain_value(hints[name]):
            found[name] = hints[name]
        if name not in sections:
            continue
        section, is_list = sections[name]
        prefix = f"{name}.N." if is_list else f"{name}."
        found |= {prefix + inner: hint for inner, hint in _option_types(section).items()}
    return found


def _lookup(types: dict[str, Any], name: str) -> Any:
    return types.get(re.sub(r"\.\d+(?=\.|$)", ".N", name))


def _split(overrides: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """`--name v1 v2` and `--name=v` -> (name, values). `-1` is a value: only `--` starts an option."""
    tokens = list(overrides)
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--"):
            raise UserError(f"config error: {token!r} is not an option; write --section.key value")
        name, equals, first = token[2:].partition("=")
        values = [first] if equals else []
        while not equals and tokens and not tokens[0].startswith("--"):
            values.append(tokens.pop(0))
        yield name.replace("-", "_"), values


def _value(name: str, annotation: Any, values: list[str]) -> object:
    """The value as YAML would hold it: a string, a list of strings, or None. Pydantic converts strings to numbers."""
    kinds = union_members(annotation)
    many = any(get_origin(kind) is tuple for kind in kinds)
    if many and values and values[0].startswith("[") and values[-1].endswith("]"):
        return _listed(name, " ".join(values))
    if len(values) == 1 and NoneType in kinds and values[0].lower() in ("none", "null"):
        return None
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if many and (len(values) != 1 or (str not in kinds and values[0] not in words)):
        return values
    if not values and bool in kinds:
        return True
    if len(values) != 1:
        raise UserError(f"config error: --{name} needs one value, not {' '.join(values) or 'none'}")
    return values[0]


def _listed(name: str, text: str) -> list[str]:
    """The items of a list that is written as in YAML: `[a, b]`, or `[]` for an empty one."""
    try:
        found = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise UserError(f"config error: --{name}: {text} is not a list; write [a, b], or the values one after another")
    return found


def union_members(annotation: Any) -> tuple[Any, ...]:
    """`int | None` -> (int, NoneType), without the constraints of Annotated."""
    if get_origin(annotation) is Annotated:
        return union_members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(kind for member in get_args(annotation) for kind in union_members(member))
    return (annotation,)


def _assign(root: dict[str, object], name: str, value: object) -> None:
    """Set a dotted option, and create missing sections. A list may grow by one item at its end."""
    *parents, key = name.split(".")
    node: Any = root
    for depth, part in enumerate(parents):
        following = [*parents, key][depth + 1]
        if isinstance(node, list):
            if int(part) > len(node):
                where = ".".join(parents[:depth])
                raise UserError(f"config error: --{name}: the next entry is {where}.{len(node)}")
            if int(part) == len(node):
                node.append({})
            node = node[int(part)]
        else:
            node = node.setdefault(part, [] if following.isdigit() else {})
        if not isinstance(node, list if following.isdigit() else dict):
            raise UserError(f"config error: {'.'.join(parents[: depth + 1])}: {node!r} is not a section")
    node[key] = value
