"""The command imports its own packages `train` and `eval`, wherever else these common names are found.

A file train.py in the working folder, or a package `train` of another distribution, would be imported in their place.
Importing dec2vec as a library changes nothing.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from dec2vec.errors import UserError

PACKAGES = ("train", "eval")
HOME = Path(__file__).absolute().parents[1]
"""The folder of all three packages: site-packages, or a checkout."""


class _Beside(MetaPathFinder):
    """Finds the packages beside this one before the import path is searched."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [str(HOME)]) if fullname in PACKAGES else None


def use_own_packages() -> None:
    """Raise UserError, which names the file, if one of the packages is not ours."""
    if not any(isinstance(finder, _Beside) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Beside())
    for name in PACKAGES:
        _check_files(name)
        _check_loaded(name)


def _check_files(name: str) -> None:
    """Another distribution may have been installed over ours."""
    for file in (HOME / name / "__init__.py", HOME / name / "__main__.py"):
        try:
            is_ours = "dec2vec" in file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            is_ours = False
        if not is_ours:
            raise UserError(
                f"{file} is not part of dec2vec: another distribution installs {name} too; install dec2vec again, in "
                "an environment of its own"
            )


def _check_loaded(name: str) -> None:
    """A module may have been imported before, by a script that calls dec2vec or by a .pth file."""
    loaded = sys.modules.get(name)
    file = getattr(loaded, "__file__", None)
    if loaded is not None and (file is None or not Path(file).samefile(HOME / name / "__init__.py")):
        raise UserError(
            f"{file or name} is already imported as {name}, and dec2vec has a package of that name; start dec2vec in a "
            "process of its own, such as `dec2vec VERB`"
        )


def leave_working_folder() -> None:
    """Take the working folder out of the import path, where `python -m` puts it first, unless dec2vec lies in it."""
    working = Path.cwd()
    if not sys.flags.safe_path and sys.path and Path(sys.path[0]).absolute() == working and working != HOME:
        del sys.path[0]
