"""A tree of this project at some commit, and how its commands are run without installing it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from golden_runs.renames import RENAMED, VALUES

IN_TREE = Path(__file__).resolve().parent / "in_tree.py"
DEMO = "dec2vec/demo"
FIXED = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
"""What `accelerate launch` would put into the environment for configs/accelerate/fsdp2.yaml."""
_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_", "PYTHON")
Value = str | int | float | Sequence[str]


class Failed(Exception):
    """A command of a tree ended with an error; the text says which and how."""


@dataclass(frozen=True)
class Option:
    """An option as a `--help` page shows it."""

    kind: str
    default: str


@dataclass(frozen=True)
class Tree:
    """The project at `root`."""

    root: Path

    def run(
        self,
        command: Sequence[str],
        cwd: Path,
        *,
        threads: int = 1,
        ranks: int = 0,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """What a module of the tree writes to stdout; under torchrun when `ranks` is not 0. Raises Failed."""
        launcher = [sys.executable]
        if ranks:
            launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
        set_here = {"PYTHONPATH": str(self.root), "GOLDEN_TREE": str(self.root), **dict.fromkeys(THREADS, str(threads))}
        return run([*launcher, str(IN_TREE), *command], cwd, {**set_here, **(environment or {})})

    def verb(self, verb: str, options: Mapping[str, Value], cwd: Path, *, threads: int = 1) -> str:
        """`dec2vec VERB --option value ...`, with the options under the names that they have in this tree."""
        return self.run(["dec2vec.cli", verb, *self.arguments(verb, options)], cwd, threads=threads)

    def arguments(self, verb: str, options: Mapping[str, Value]) -> list[str]:
        """Options in the old tree's words -> a command line that this tree takes."""
        known = known_options(self, verb)
        return [token for name, value in options.items() for token in _typed(verb, known, name, value)]


def run(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> str:
    """The stdout of a process that ends well, and no process left behind by one that does not. Raises Failed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHERS)}
    child = subprocess.Popen(
        command,
        cwd=cwd,
        env={**inherited, **FIXED, "PYTHONSAFEPATH": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = child.communicate()
    finally:
        if child.poll() is None:
            _end(child)
    if child.returncode != 0:
        raise Failed(f"exit code {child.returncode} of {' '.join(command)}\n{stderr[-3000:]}")
    return stdout


def _end(child: subprocess.Popen[str]) -> None:
    """SIGTERM first: torchrun then ends its workers, which are not in its process group."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@cache
def known_options(tree: Tree, verb: str) -> dict[str, Option]:
    """The options on the help page of a verb."""
    return parse_help(tree.run(["dec2vec.cli", verb, "--help"], tree.root))


def parse_help(page: str) -> dict[str, Option]:
    """Options by name; the position of a section in a list becomes N (`data.0.path` -> `data.N.path`)."""
    found: dict[str, Option] = {}
    for block in re.split(r"\n(?=  --)", page)[1:]:
        head, *lines = block.split("\n\n")[0].split("\n")
        name, _, kind = head.removeprefix("  --").partition(" ")
        text = " ".join(" ".join(lines).split())
        default = re.search(r".*\((?:(?:now|default):? (.*)|(required))\)$", text)
        shown = (default[1] or default[2]) if default else ""
        found[without_positions(name)] = Option(kind.strip(), shown)
    return found


def without_positions(name: str) -> str:
    """`data.0.path` -> `data.N.path`."""
    return re.sub(r"\.\d+(?=\.|$)", ".N", name)


def _typed(verb: str, known: Mapping[str, Option], name: str, value: Value) -> list[str]:
    """`--name value ...`; the new name where only that is known, the new word where the old one is no choice."""
    pattern = without_positions(name)
    renamed = RENAMED.get(verb, {}).get(pattern, pattern)
    if pattern not in known and renamed in known:
        pattern, name = renamed, _with_positions(renamed, name)
    values = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [str(value)]
    new_words = VALUES.get(without_positions(name), {})
    choices = known[pattern].kind if pattern in known else ""
    words = {old: new for old, new in new_words.items() if new in choices}
    return [f"--{name}", *(words.get(value, value) for value in values)]


def _with_positions(renamed: str, name: str) -> str:
    positions = iter(re.findall(r"\.(\d+)(?=\.|$)", name))
    return re.sub(r"\.N(?=\.|$)", lambda _: f".{next(positions)}", renamed)


@contextlib.contextmanager
def worktree(root: Path, revision: str) -> Iterator[Tree]:
    """A tree of `revision` in a temporary folder, removed at the end whatever happens."""
    parent = Path(tempfile.mkdtemp(prefix="golden-"))
    path = parent / "tree"
    try:
        git(root, "worktree", "add", "--quiet", "--detach", str(path), revision)
        yield Tree(path)
    finally:
        subprocess.run(["git", "-C", str(root), "worktree", "remove", "--force", str(path)], check=False)
        shutil.rmtree(parent, ignore_errors=True)


def git(root: Path, *arguments: str) -> bytes:
    """The stdout of a git command; its own message and exit code 1 if it fails."""
    result = subprocess.run(["git", "-C", str(root), *arguments], stdout=subprocess.PIPE, check=False)
    if result.returncode != 0:
        raise SystemExit(f"git {' '.join(arguments)} failed")
    return result.stdout
