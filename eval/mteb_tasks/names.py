"""Names of MTEB's tasks and benchmarks, such as `STS12` and `MTEB(eng, v2)`, and the tasks that they stand for."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from dec2vec.errors import UserError
from dec2vec.runtime import importing


@dataclass(frozen=True)
class Asked:
    """Each task once, in the order of the names, and the benchmarks among the names with the names of their tasks."""

    tasks: list[Any] = field(default_factory=list)
    benchmarks: dict[str, list[str]] = field(default_factory=dict)

    def add(self, task: Any) -> None:
        """Raises UserError if a task was added that has this name and other languages or splits."""
        name = task.metadata.name
        known = next((other for other in self.tasks if other.metadata.name == name), None)
        if known is None:
            self.tasks.append(task)
        elif _scope(known) != _scope(task):
            raise UserError(
                f"MTEB task {name} is asked for twice, with different languages or splits ({_scope(known)} and "
                f"{_scope(task)}); evaluate them in two runs"
            )


def find_tasks(names: Sequence[Any]) -> list[Any]:
    """The tasks that `names` stand for; task objects stand for themselves. UserError for a name mteb does not know."""
    return find(names).tasks


def find_task(name: str) -> Any:
    """The task of this name. UserError for a benchmark as well."""
    tasks = find_tasks([name])
    if len(tasks) != 1:
        raise UserError(f"MTEB {name!r} is a benchmark of {len(tasks)} tasks; name one of them")
    return tasks[0]


def find(names: Sequence[Any]) -> Asked:
    """The same, with the benchmarks."""
    asked = Asked()
    for name in names:
        if not isinstance(name, str):
            asked.add(name)
            continue
        tasks, is_benchmark = _named(name)
        if is_benchmark:
            asked.benchmarks[name] = [task.metadata.name for task in tasks]
        for task in tasks:
            asked.add(task)
    return asked


def mteb_package() -> Any:
    """The package, which is optional. UserError without it."""
    try:
        with importing():
            import mteb
    except ImportError:
        raise UserError("MTEB tasks need the mteb package: pip install mteb") from None
    return mteb


def _named(name: str) -> tuple[list[Any], bool]:
    """The tasks behind a name, and whether it is that of a benchmark."""
    mteb = mteb_package()
    with contextlib.suppress(KeyError):
        return [mteb.get_task(name)], False
    with contextlib.suppress(KeyError):
        return list(mteb.get_benchmark(name).tasks), True
    every = import_module("mteb.get_tasks").TASK_LIST  # the function of this name hides the module
    benchmarks = [benchmark.name for benchmark in mteb.get_benchmarks()]
    close = _closest(name, [*(task.metadata.name for task in every), *benchmarks])
    named = [f"the benchmark {other!r}" if other in benchmarks else repr(other) for other in close]
    raise UserError(f"MTEB {name!r}: no task and no benchmark has this name{_or(named)}")


def _closest(name: str, known: Sequence[str]) -> list[str]:
    """The names that are like this one: the same in other letters of case, or up to three similar ones."""
    plain: dict[str, str] = {}
    for other in known:
        plain.setdefault(_bare(other), other)
    if _bare(name) in plain:
        return [plain[_bare(name)]]
    begun = [other for key, other in plain.items() if _bare(name) and key.startswith(_bare(name))]
    similar = difflib.get_close_matches(_bare(name), plain, n=3, cutoff=0.7)
    return list(dict.fromkeys([*(begun if len(begun) <= 3 else []), *(plain[key] for key in similar)]))[:3]


def _bare(name: str) -> str:
    """A name in small letters, without all that is neither a letter nor a digit."""
    return "".join(character for character in name.lower() if character.isalnum())


def _or(names: Sequence[str]) -> str:
    first = ", ".join(names[:-1])
    return f"; did you mean {f'{first} or ' if first else ''}{names[-1]}?" if names else ""


def _scope(task: Any) -> tuple[list[str], list[str]]:
    return sorted(task.hf_subsets), sorted(task.eval_splits)
