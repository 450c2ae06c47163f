"""The one exception that means "the user must change something"."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path


class UserError(Exception):
    """A mistake the user can mend: one line naming the value and the fix; the CLI exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class TryAgain(UserError):
    """Nobody's mistake: another process or host was lost. The same command goes on; the CLI exits with 75."""


def check_installed(package: str, extra: str, user: str) -> None:
    """Raise UserError if `package`, which comes with an extra of ours and which `user` needs, is not installed."""
    if find_spec(package) is None:
        raise UserError(f"{user}: needs {package}, which is not installed; pip install 'dec2vec[{extra}]'")


USER_ERROR = 2
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h
INTERRUPTED = 130


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run a command; a UserError becomes one line on stderr, anything unforeseen keeps its traceback."""
    try:
        main(argv)
    except UserError as error:
        if _speaks():
            sys.stderr.write(f"dec2vec: error: {error}\n")
        return TRY_AGAIN if isinstance(error, TryAgain) else USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("dec2vec: interrupted\n")
        return INTERRUPTED
    return 0


def _speaks() -> bool:
    """One process of each machine says what went wrong: the first to meet it, which may be the only one left.

    torchrun gives each of its attempts a folder, where that process leaves a mark; elsewhere local rank 0 speaks.
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
