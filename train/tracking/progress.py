"""How far a run is: a bar on a terminal, a line every ten seconds in a log file."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tqdm import tqdm

from dec2vec.runtime import LINE_SECONDS, LineWriter

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, loss {loss:.4f}, {speed:.0f} pairs/s]"
_LINE = "step {n_fmt}/{total_fmt}  loss {loss:.4f}  {speed:.0f} pairs/s  {remaining} left"


class Progress:
    """Steps, loss, pairs per second and time left on standard error; silent unless `is_main`.

    In a log file the first and the last step are always shown.
    """

    def __init__(self, total: int, done: int = 0, *, is_main: bool = True) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._first = done + 1
        options: dict[str, Any] = {"desc": "train", "dynamic_ncols": True, "bar_format": _BAR}
        if not self._is_terminal:
            options = {"mininterval": LINE_SECONDS, "leave": False, "delay": 1e-9, "bar_format": _LINE}
            options["file"] = LineWriter()
        self._bar = _StepBar(total=total, initial=done, miniters=1, disable=not is_main, **options)

    def advance(self, loss: float, pairs: int) -> None:
        """Count one more step, over `pairs` pairs of all processes."""
        self._bar.loss, self._bar.pairs = loss, pairs
        is_shown = self._bar.update()
        if not (self._is_terminal or is_shown) and self._bar.n in (self._first, self._bar.total):
            self._bar.refresh()

    def note(self, text: str) -> None:
        """Write a line above the progress bar."""
        if not self._bar.disable:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


class _StepBar(tqdm):  # type: ignore[type-arg]  # its stubs are generic, tqdm itself is not
    """tqdm with two more fields for its format: `loss`, and `speed` in pairs per second."""

    loss = 0.0
    pairs = 0

    @property
    def format_dict(self) -> dict[str, Any]:
        fields = super().format_dict
        steps = fields["rate"] or (fields["n"] - fields["initial"]) / max(fields["elapsed"], 1e-9)
        return {**fields, "loss": self.loss, "speed": steps * self.pairs}
