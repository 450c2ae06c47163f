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

SECTIONS = {
    "train": (
        "lora",
        "data",
        "loss",
        "optim",
        "batch",
        "mining",
        "distributed",
        "checkpoint",
        "eval",
        "tracking",
        "export",
    ),
    "eval": ("systems", "pairs", "gap", "topics", "clustering", "retrieval", "isotropy"),
}
"""Sections that only one of the commands has, by which an option of the other one is known."""
_HELP = "; --help lists the options"


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
    return "; lora.method full trains every weight without adapters" if name == "lora" else ""


def _suggestion(name: str, cls: type) -> str:
    """What the user may have meant: first a name at the same place, then one in another section."""
    parts = name.split(".")
    verb = next((verb for verb, sections in SECTIONS.items() if parts[0] in sections), None)
    close = _at_this_place(parts, cls, 0.75) or _in_another_section(name, cls)
    if not close and verb is not None and parts[0] not in section_types(cls):
        return f"; {parts[0]} is a section of `dec2vec {verb}`, and --help lists the options here"
    close = close or _similar(name, cls) or _at_this_place(parts, cls, 0.65) or _similar_at_the_end(name, cls)
    return f"; did you mean {' or '.join(filter(None, [', '.join(close[:-1]), *close[-1:]]))}?" if close else _HELP


def _at_this_place(parts: Sequence[str], node: Any, cutoff: float) -> list[str]:
    """Options and sections of `node` with a name like the first part, followed by the like of the other parts."""
    names, (part, *rest) = [field.name for field in dataclasses.fields(node)], parts
    found = [part] if part in names else _like(part, names, cutoff)
    if len(found) != 1:
        return found
    section, is_list = section_types(node).get(found[0], (None, False))
    position = [rest.pop(0) if rest and rest[0].isdigit() else "0"] if is_list else []
    inside = _at_this_place(rest, section, cutoff) if rest and section else []
    if inside or (rest and section and part in names):
        return [".".join([found[0], *position, name]) for name in inside]
    return found


def _like(part: str, names: Sequence[str], cutoff: float) -> list[str]:
    """The name that has the initials of `part` (learning_rate, lr), or is closest to it; else those that begin so."""
    initials = "".join(word[:1] for word in part.split("_"))
    if "_" in part and initials in names:
        return [initials]
    begun = [name for name in names if name.startswith(part)]
    return difflib.get_close_matches(part, names, n=1, cutoff=cutoff) or begun[:3]


def _in_another_section(name: str, cls: type) -> list[str]:
    """Options that have the name without its first parts, or that end with it; not those in sections far below."""
    pattern, known = re.sub(r"\.\d+(?=\.|$)", ".N", name), options(cls)
    ends = [pattern[match.end() :].removeprefix("N.") for match in re.finditer(r"\.", pattern)]
    within = [end for end in ends if end in known][:1]
    longest = 2 * len(_sections_of(pattern))
    below = [option for option in known if f".{_bare(option)}".endswith(f".{_bare(pattern)}")]
    below = [option for option in below if len(_sections_of(option)) <= longest]
    least = min((len(_sections_of(option)) for option in below), default=0)
    return [_first(option) for option in within or below if within or len(_sections_of(option)) == least][:3]


def _similar(name: str, cls: type) -> list[str]:
    """The option whose whole name is most similar."""
    pattern = re.sub(r"\.\d+(?=\.|$)", ".N", name)
    return list(map(_first, difflib.get_close_matches(pattern, _at_most_two_deep(cls), n=1, cutoff=0.8)))


def _similar_at_the_end(name: str, cls: type) -> list[str]:
    """The option in a section whose last part is most similar."""
    tails = {option.rpartition(".")[2]: option for option in reversed(_at_most_two_deep(cls))}
    return [_first(tails[tail]) for tail in _like(name.rpartition(".")[2], [*tails], 0.75)[:1]]


def _at_most_two_deep(cls: type) -> list[str]:
    return [option for option in options(cls) if len(_sections_of(option)) <= 2]


def _sections_of(option: str) -> list[str]:
    """The parts of a name, without positions in lists."""
    return [part for part in option.split(".") if part != "N" and not part.isdigit()]


def _bare(option: str) -> str:
    return ".".join(_sections_of(option))


def _first(option: str) -> str:
    """An option in the first entry of each list."""
    return re.sub(r"\.N(?=\.|$)", ".0", option)


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
