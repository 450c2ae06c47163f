"""Read one YAML mapping strictly. Every mistake is reported in one line with its line number."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path

import yaml

from dec2vec.errors import UserError

_NAME_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and takes only true and false as booleans.

    YAML 1.1 reads `yes`, `no`, `on` and `off` as booleans, so that `language: no` would not be Norwegian.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            name = key_node.value
            if key_node.tag not in _NAME_TAGS:
                problem = f"key {name if isinstance(name, str) else '?'} is not a name; quote it if it is"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            if name in seen:
                problem = f"{name} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_REPLACED_TAGS = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"}
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_mapping(path: Path) -> dict[str, object]:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    try:
        text = path.read_bytes().decode("utf-8")
        value = yaml.load(text, Loader=_StrictLoader)
    except FileNotFoundError:
        raise UserError(f"config file {path} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"config file {path} is a folder; give a YAML file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"config file {path} line {line}: not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"config file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(_yaml_problem(path, error)) from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise UserError(f"config file {path} contains a {kind} instead of `section:` and `key: value` lines")
    return value


def _yaml_problem(path: Path, error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark is not None else ""
        return f"config file {path}{line}: {error.problem or error.context}"
    return f"config file {path}: not YAML: {error}"
