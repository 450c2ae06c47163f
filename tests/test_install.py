"""What `scripts/install` installs: every declared dependency is locked with hashes, and no CUDA library is."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
REQUIREMENTS = REPOSITORY / "requirements"
OURS = {"dec2vec", "train", "eval"}
EXTRAS = ("eval", "search", "mteb", "tensorboard", "vision", "cuda", "deepspeed")
PYPROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked(name: str) -> dict[str, Requirement]:
    """Name and pinned version, without the packages of a file that it includes."""
    text = (REQUIREMENTS / name).read_text(encoding="utf-8").replace(" \\\n", "\n")
    pins = [Requirement(line) for line in text.splitlines() if re.match(r"\w", line)]
    return {canonicalize_name(pin.name): pin for pin in pins}


def declared(*extras: str) -> list[Requirement]:
    """Direct dependencies of the core, or of extras and those that they name."""
    lines: Iterable[str] = PYPROJECT["dependencies"]
    if extras:
        lines = [line for extra in extras for line in PYPROJECT["optional-dependencies"][extra]]
    found = [Requirement(line) for line in lines]
    nested = [extra for requirement in found if requirement.name == "dec2vec" for extra in requirement.extras]
    own = [requirement for requirement in found if requirement.name != "dec2vec"]
    return [*own, *(declared(*nested) if nested else [])]


def test_every_declared_dependency_is_locked() -> None:
    core, rest = locked("core.lock"), locked("all.lock")
    (torch,) = locked("torch.txt").values()
    pins = {**core, **rest, "torch": torch}
    assert not core.keys() & rest.keys()
    for requirement in (*declared(), *declared("dev")):
        pin = pins[canonicalize_name(requirement.name)]
        (version,) = pin.specifier
        assert version.operator == "==" and requirement.specifier.contains(version.version), requirement
    assert {canonicalize_name(requirement.name) for requirement in declared()} <= {*core, "torch"}
    assert "faiss-cpu" not in core and "gensim" not in core


def test_locked_packages_have_hashes_and_bring_no_cuda() -> None:
    """torch itself stays out, because its builds differ; what its CUDA build needs comes with that build alone."""
    for name in ("core.lock", "all.lock"):
        text = (REQUIREMENTS / name).read_text(encoding="utf-8")
        blocks = re.split(r"\n(?=\S)", text)
        assert all("--hash=sha256:" in block for block in blocks if "==" in block.split("\n")[0])
        assert "://" not in text
        assert not [pin for pin in locked(name) if re.match(r"(torch|triton|nvidia-.*|cuda-.*)$", pin)]


def test_core_dependencies_stay_few() -> None:
    assert len(PYPROJECT["dependencies"]) <= 22


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        pytest.param(["--all"], 2, "unknown option --all", id="option"),
        pytest.param([], 1, "found no Python 3.11 to 3.14 (tried false)", id="no Python"),
    ],
)
def test_install_says_what_is_wrong(tmp_path: Path, options: list[str], code: int, message: str) -> None:
    """In one line, and without a .venv left behind."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(REPOSITORY / "scripts/install", tmp_path / "scripts")
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "false"}
    command = [str(tmp_path / "scripts/install"), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert message in line and not (tmp_path / ".venv").exists()


def test_every_imported_package_is_declared() -> None:
    """Under the name that it is installed by; what only type checkers import doesn't count."""
    installed_as = packages_distributions()
    names = {canonicalize_name(requirement.name) for requirement in (*declared(), *declared(*EXTRAS))}
    for package in ("dec2vec", "train", "eval"):
        for file in (REPOSITORY / package).rglob("*.py"):
            for module in imported_modules(ast.parse(file.read_text(encoding="utf-8"))):
                owners = {canonicalize_name(name) for name in installed_as.get(module, [module])}
                assert module in OURS or module in sys.stdlib_module_names or owners & names, (file, module)


def imported_modules(tree: ast.Module) -> set[str]:
    """First parts of the names that a file imports, at its top or within functions."""
    skipped = {id(part) for node in ast.walk(tree) if is_for_types(node) for part in ast.walk(node)}
    nodes = [node for node in ast.walk(tree) if id(node) not in skipped]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in plain | parts}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


STUB = """#!/bin/sh
case "$*" in
  *version_info*) ;;
  *importlib.metadata*) echo 2.12.0 ;;
  *) echo "$@" >> .venv/calls ;;
esac
"""
"""An interpreter that has torch 2.12.0 and writes down what it is asked to do."""


@pytest.mark.parametrize("extent", ["core", "all"])
def test_install_keeps_your_torch_and_runs_once(tmp_path: Path, extent: str) -> None:
    """Locked packages with hashes first, then what this torch needs from its own index, then the project."""
    for name in ("scripts/install", "pyproject.toml", "requirements"):
        source, target = REPOSITORY / name, tmp_path / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("python", "pip", "dec2vec"):
        (tmp_path / ".venv/bin" / name).write_text(STUB, encoding="utf-8")
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "TORCH_INDEX_URL": "file:///wheels"}
    command = [str(tmp_path / "scripts/install"), *(["--core"] if extent == "core" else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "keeping torch 2.12.0" in done.stderr
    calls = (tmp_path / ".venv/calls").read_text(encoding="utf-8").splitlines()
    locks, torch, project, *compiled = calls
    assert locks.endswith(f"--no-deps --require-hashes --requirement requirements/{extent}.lock")
    assert torch.endswith("--index-url file:///wheels torch==2.12.0") and project.endswith("--editable .")
    assert [call.split()[1] for call in compiled] == ([] if extent == "core" else ["compileall"])
    subprocess.run(command, env=environment, check=True)
    assert (tmp_path / ".venv/calls").read_text(encoding="utf-8").splitlines() == calls
