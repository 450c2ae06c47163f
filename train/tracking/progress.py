"""How far a run is: a bar on a terminal, a line every ten seconds in a log file."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from tqdm import tqdm

from dec2vec.runtime import LINE_SECONDS, LineWriter

_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {left}, loss {loss:.4f}, {speed:.0f} pairs/s]"
_LINE = "step {n_fmt}/{total_fmt}  loss {loss:.4f}  {speed:.0f} pairs/s  {left}"


class Progress:
    """Steps, loss, pairs per second and time left on standard error; silent unless `is_main`.

    In a log file the first and the last step are always shown. `dev_every` is the number of steps between dev
    evaluations, if there are any: from the first of them on, the time left includes those to come.
    """

    def __init__(self, total: int, done: int = 0, *, is_main: bool = True, dev_every: int | None = None) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._first = done + 1
        options: dict[str, Any] = {"desc": "train", "dynamic_ncols": True, "bar_format": _BAR}
        if not self._is_terminal:
            options = {"mininterval": LINE_SECONDS, "leave": False, "delay": 1e-9, "bar_format": _LINE}
            options["file"] = LineWriter()
        self._bar = _StepBar(total=total, initial=done, miniters=1, disable=not is_main, **options)
        self._bar.dev_every = dev_every

    def advance(self, loss: float, pairs: int) -> None:
        """Count one more step, over `pairs` pairs of all processes."""
        self._bar.loss, self._bar.pairs = loss, pairs
        is_shown = self._bar.update()
        if not (self._is_terminal or is_shown) and self._bar.n in (self._first, self._bar.total):
            self._bar.refresh()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Time a dev evaluation, which is no part of the steps' speed."""
        if self._bar.disable:  # and has no clock
            yield
            return
        began = self._bar.now
        yield
        self._bar.dev_seconds = self._bar.now - began
        self._bar.leave_out(self._bar.dev_seconds)

    @property
    def dev_to_come(self) -> str:
        """The evaluations to come, and when the last step ends with them; empty after the last."""
        if self._bar.disable or self._bar.dev_left == 0:
            return ""
        end = time.strftime("%H:%M", time.localtime(time.time() + self._bar.seconds_left))
        return f"; {self._bar.dev_left} more, and the last step ends at {end}"

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
    """tqdm with more fields for its format: `loss`, `speed` in pairs per second, and `left` with dev evaluations."""

    _time: Callable[[], float]
    loss = 0.0
    pairs = 0
    dev_every: int | None = None
    dev_seconds = 0.0
    """What the last dev evaluation took."""

    @property
    def format_dict(self) -> dict[str, Any]:
        fields = super().format_dict
        rate = self._rate(fields)
        return {**fields, "loss": self.loss, "speed": rate * self.pairs, "left": self._left()}

    @property
    def now(self) -> float:
        """The bar's clock."""
        return self._time()

    @property
    def dev_left(self) -> int:
        """Dev evaluations to come; the last step has one in any case."""
        if not self.dev_every:
            return 0
        total, done = int(self.total or 0), int(self.n)
        had_last = done == total and done % self.dev_every > 0
        return -(-total // self.dev_every) - done // self.dev_every - had_last

    @property
    def seconds_left(self) -> float:
        """Steps and dev evaluations to come."""
        steps = (self.total or 0) - self.n
        return steps / max(self._rate(super().format_dict), 1e-9) + self.dev_left * self.dev_seconds

    def leave_out(self, seconds: float) -> None:
        """Go on as if the last seconds had not been."""
        self.start_t += seconds
        self.last_print_t += seconds

    def _left(self) -> str:
        text = f"{'?' if self.n == self.initial else self.format_interval(self.seconds_left)} left"
        dev = self.dev_left * self.dev_seconds
        return f"{text}, of which dev {self.format_interval(dev)}" if dev else text

    @staticmethod
    def _rate(fields: Mapping[str, Any]) -> float:
        return float(fields["rate"] or (fields["n"] - fields["initial"]) / max(fields["elapsed"], 1e-9))
