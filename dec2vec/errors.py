"""The one exception that means "the user must change something"."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend: one line naming the value and the fix; the CLI exits with 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class TryAgain(UserError):
    """Nobody's mistake: another process or host was lost. The same command goes on; the CLI exits with 75."""
