"""Exit codes: 0 done, 2 the user must change something, 130 interrupted, 1 (with a traceback) our bug."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from dec2vec.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run a command; a UserError becomes one line on stderr, anything unforeseen keeps its traceback."""
    try:
        main(argv)
    except UserError as error:
        if _speaks():
            sys.stderr.write(f"dec2vec: error: {error}\n")
        return USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("dec2vec: interrupted\n")
        return INTERRUPTED
    return 0


def _speaks() -> bool:
    """Every rank meets the same mistake; the first of each machine says it."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
