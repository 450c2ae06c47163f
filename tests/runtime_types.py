"""Annotations of dec2vec, train and eval, shapes of tensors included, are checked at every call while the tests run.

Instead of jaxtyping's own import hook, which binds and checks the arguments of every call twice (one case of
test_gradcache: 3.2 s of CPU, 2.0 s here, 1.2 s without checks) and compiles PyTorch and Transformers anew whenever one
of our modules is the first to import them.
"""

from __future__ import annotations

import ast
import builtins
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import decode_source
from types import CodeType, ModuleType
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

PACKAGES = ("dec2vec", "train", "eval")
NAME = "_checked_at_run_time"
OWN_DIMENSIONS = jaxtyped("context")
"""Within it a dimension's name stands for one size."""


def install() -> None:
    """Check every module of `PACKAGES` that is imported from now on."""
    imported = [name for name in sys.modules if name.split(".")[0] in PACKAGES]
    if imported:
        raise RuntimeError(f"imported before its types could be checked: {', '.join(imported)}")
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] not in PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Decorates what is defined, at any depth. Bytecode is neither read nor written: other processes use it."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = ast.parse(decode_source(self.get_data(path)), path)
        for node in list(ast.walk(tree)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                node.decorator_list.append(_decorator(node))  # the innermost
            elif isinstance(node, ast.ClassDef):
                node.decorator_list.insert(0, _decorator(node))  # after @dataclass
        code: CodeType = compile(tree, path, "exec", dont_inherit=True)
        return code

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[NAME] = checked
        super().exec_module(module)


def _decorator(node: ast.AST) -> ast.expr:
    return ast.copy_location(ast.Name(NAME, ast.Load()), node)


def checked(defined: Any) -> Any:
    """A function that checks its arguments and what it returns; a class, with a dataclass's `__init__` checked."""
    if not isinstance(defined, type):
        return _checked(defined)
    if is_dataclass(defined) and not hasattr(defined.__init__, "__wrapped__"):
        defined.__init__ = _checked(defined.__init__)  # type: ignore[method-assign]
    return defined


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    hints = {name: _resolved(hint, function) for name, hint in function.__annotations__.items()}
    shapes = [shape for hint in hints.values() for shape in _shapes(hint)]
    if any("{" in shape for shape in shapes):
        return jaxtyped(function, typechecker=beartype)  # a dimension is computed from the arguments
    function.__annotations__ = hints
    typed = beartype(function)
    if not shapes:
        return typed

    @functools.wraps(function)
    def with_own_dimensions(*arguments: Any, **options: Any) -> Any:
        with OWN_DIMENSIONS:
            return typed(*arguments, **options)

    return with_own_dimensions


class _Names(dict[str, Any]):
    """A module's names; any other is a dimension, as in Int[Tensor, batch], which needs no quotes."""

    def __missing__(self, name: str) -> str:
        if name[0].isupper() or hasattr(builtins, name):
            raise KeyError(name)
        return name


def _resolved(hint: Any, function: Callable[..., Any]) -> Any:
    """The type that an annotation names; Any where the name is known to mypy only."""
    try:
        return eval(hint, {}, _Names(function.__globals__)) if isinstance(hint, str) else hint
    except (NameError, TypeError):
        return Any


def _shapes(hint: Any) -> Iterator[str]:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        yield hint.dim_str
    for part in get_args(hint):
        yield from _shapes(part)
