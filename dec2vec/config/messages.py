"""Validation errors of pydantic in terms of the configuration file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dec2vec.config.overrides import section_hint, section_types, unknown_option
from dec2vec.config.renames import renamed_value

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


_PLAIN_WORDS = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text (quote it)",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "too_short": "must have at least one entry",
    "dataclass_type": "must be a section of `key: value` lines",
}


def explain(cls: type, error: ValidationError) -> str:
    """One message per option, with its dotted name, its value and what the value must be."""
    found: dict[str, list[str]] = {}
    details = error.errors(include_url=False, include_context=False)
    for detail in (item for item in details if not _follows(item, details)):
        name = _option_name(cls, detail["loc"])
        found.setdefault(name, []).append(_problem(cls, name, detail))
    return "; ".join(f"{name}: {_either(problems)}" for name, problems in found.items())


def number_given_as_bool(raw: object, value: object, name: str = "") -> str | None:
    """The message for `rank: true`, which pydantic would accept as the number 1; None if there is no such value."""
    if isinstance(raw, bool) and not isinstance(value, bool):
        return f"{name}: {str(raw).lower()} is not a number"
    children: list[tuple[str, object, object]] = []
    if isinstance(raw, dict) and dataclasses.is_dataclass(value):
        children = [(f"{name}.{key}".lstrip("."), item, getattr(value, key)) for key, item in raw.items()]
    elif isinstance(raw, list) and isinstance(value, tuple):
        children = [(f"{name}.{i}", item, value[i]) for i, item in enumerate(raw)]
    found = (number_given_as_bool(item, inner, path) for path, item, inner in children)
    return next(filter(None, found), None)


def _follows(detail: ErrorDetails, others: Sequence[ErrorDetails]) -> bool:
    """Whether it only counts what is left of a list without its wrong items, which have messages of their own."""
    place = detail["loc"]
    inner = (other["loc"] for other in others if len(other["loc"]) > len(place))
    return detail["type"] == "too_short" and any(loc[: len(place)] == place for loc in inner)


def _option_name(cls: type, location: tuple[int | str, ...]) -> str:
    """The dotted name without the union members that pydantic appends (`lora.targets.str`)."""
    parts: list[str] = []
    node: Any = cls
    for part in location:
        if isinstance(part, str) and part.startswith("<"):  # the form of an option that has several
            continue
        if node is None and not isinstance(part, int):
            break
        parts.append(str(part))
        if isinstance(part, str):
            node = section_types(node).get(part, (None, False))[0]
    return ".".join(parts)


def _problem(cls: type, name: str, detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "unexpected_keyword_argument":
        return unknown_option(name, cls)
    if kind == "missing":
        return "must be given"
    present = renamed_value(name, detail["input"])
    if present is not None:
        return f"the value {detail['input']} is now called {present}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    words = _PLAIN_WORDS.get(kind, message.replace("input should be", "must be"))
    if kind == "dataclass_type":
        words += section_hint(name)
    return f"{_shown(detail['input'])} {words}"


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _either(problems: list[str]) -> str:
    """One message for a value that fits no member of a union: pydantic reports an error for each member."""
    unique = list(dict.fromkeys(problems))
    head, _, _ = unique[0].partition(" must be ")
    rest = [problem.removeprefix(f"{head} must be ") for problem in unique[1:]]
    return " or ".join([unique[0], *rest])
