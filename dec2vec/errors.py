"""Errors that are shown to the user as one line, and the exit codes of the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can fix: one line with the value and the fix. The command exits with code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class TryAgain(UserError):
    """Another process or host was lost. Running the same command again resumes; the exit code is 75."""


def check_installed(package: str, extra: str, user: str) -> None:
    """Raise UserError if `package`, which comes with an extra of ours and which `user` needs, is not installed."""
    if find_spec(package) is None:
        raise UserError(f"{user}: needs {package}, which is not installed; pip install 'dec2vec[{extra}]'")


USER_ERROR = 2
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130


def why_not_encoded(name: str) -> str | None:
    """Why this environment has no file of that name; None if it may have one. UTF-8 can name all of them."""
    encoding = sys.getfilesystemencoding()
    if encoding.lower().replace("-", "") == "utf8":
        return None
    try:
        name.encode(encoding)
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return f"{shown!a} cannot be written in this environment's {encoding}; set PYTHONUTF8=1"
    return None


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run a command and return its exit code. A UserError becomes one line on stderr; others keep their traceback."""
    try:
        _check_encoding(argv)
        main(argv)
    except UserError as error:
        if _reports_error():
            sys.stderr.write(f"dec2vec: error: {error}\n")
        return TRY_AGAIN if isinstance(error, TryAgain) else USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("dec2vec: interrupted\n")
        return INTERRUPTED
    return 0


def _check_encoding(argv: Sequence[str]) -> None:
    """UserError for words, or a working folder, that are not in the environment's encoding."""
    try:
        here = str(Path.cwd())
    except OSError:
        here = ""  # a folder that was removed
    problem = next(filter(None, map(why_not_encoded, [*argv, here])), None)
    if problem is not None:
        raise UserError(problem)


def _reports_error() -> bool:
    """Whether this process reports an error: the first process of each machine that fails does.

    torchrun gives each of its attempts a folder, in which this process leaves a mark. Without it local rank 0 reports.
    """
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    if error_file:
        try:
            (Path(error_file).parent.parent / "told").touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:
            pass
        else:
            return True
    return os.environ.get("LOCAL_RANK", "0") == "0"
