"""Write docs/api.md: the public names of dec2vec with their types, from the source and its docstrings.

python scripts/api_reference.py            # print it
python scripts/api_reference.py --write    # write docs/api.md, which a test compares with the source
"""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

PLACE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = """# API reference

The public names of `dec2vec`. Options of a configuration are those of the YAML file (`dec2vec train --help`,
`dec2vec eval --help`). The guide is [train from Python](guides/python.md). Made by `scripts/api_reference.py`.
"""
ORDER = ("train", "evaluate", "TrainingRun", "Evaluation", "Encoder", "ModelConfig", "Whitening", "UserError")
SKIPPED = frozenset({"from_start", "from_artifact", "from_backbone", "encode_views", "iter_views", "lm_head"})
"""Methods of the encoder that the packages of dec2vec use among themselves."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def reference() -> str:
    """The whole page."""
    import dec2vec

    homes: dict[str, str] = dec2vec._HOMES
    missing = set(homes) ^ set(ORDER)
    if missing:
        raise SystemExit(f"ORDER and the public names of dec2vec differ: {', '.join(sorted(missing))}")
    return "\n".join([HEAD, *(line for name in ORDER for line in _section(name, homes[name]))])


def _section(name: str, module: str) -> Iterator[str]:
    tree = ast.parse(inspect.getsource(import_module(module)))
    node = next(item for item in tree.body if isinstance(item, (Function, ast.ClassDef)) and item.name == name)
    yield f"## dec2vec.{name}\n"
    if isinstance(node, ast.ClassDef):
        yield from (_text(node), "")
        yield from _members(node)
    else:
        yield from (f"```python\n{_signature(node)}\n```\n", _text(node), "")


def _members(node: ast.ClassDef) -> Iterator[str]:
    """Fields, properties and methods that do not begin with an underscore, in their order."""
    rows = [*_fields(node), *_methods(node)]
    if rows:
        yield from ("| member | |", "|---|---|", *(f"| `{_cell(code)}` | {_cell(text)} |" for code, text in rows), "")


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(item, ast.AnnAssign) and not ast.unparse(item.target).startswith("_"):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            text = str(after.value.value) if is_text else ""  # type: ignore[union-attr]
            yield ast.unparse(item), " ".join(text.split())


def _methods(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for item in node.body:
        if isinstance(item, Function) and not item.name.startswith("_") and item.name not in SKIPPED:
            marks = {ast.unparse(mark) for mark in item.decorator_list}
            is_value = bool(marks & {"property", "cached_property"})
            result = f"{item.name}: {ast.unparse(item.returns)}" if is_value and item.returns else _signature(item)
            yield result.removeprefix("def "), _text(item)


def _signature(node: Function) -> str:
    """As in the source, without `self`, and a parameter a line if it would be long."""
    arguments = ast.unparse(node.args)
    own = next((word for word in ("self", "cls") if arguments.split(",")[0] == word), None)
    arguments = arguments if own is None else arguments[len(own) :].removeprefix(", ")
    result = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    line = f"def {node.name}({arguments}){result}"
    if len(line) <= 100:
        return line
    parts = ast.unparse(node.args).replace(": ", ":\0").split(", ")
    return line if own is not None else f"def {node.name}(\n    " + _lines(parts) + f"\n){result}"


def _lines(parts: list[str]) -> str:
    """Parameters, of which a comma within brackets is no end."""
    lines: list[str] = []
    for part in parts:
        if lines and lines[-1].count("[") > lines[-1].count("]"):
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return ",\n    ".join(lines).replace(":\0", ": ")


def _text(node: ast.ClassDef | Function) -> str:
    paragraphs = (ast.get_docstring(node) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PLACE.write_text(reference(), encoding="utf-8")
    else:
        sys.stdout.write(reference())


if __name__ == "__main__":
    main()
