"""How far a run is: a bar in a terminal, a plain line every few seconds in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, runtime_checkable

from tqdm import tqdm


@runtime_checkable
class Stream(Protocol):
    """The part of a text stream that is needed."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


@runtime_checkable
class Progress(Protocol):
    """What the loop tells whoever watches."""

    def advance(self, loss: float, pairs: int) -> None:
        """One more step is done, over `pairs` pairs of all processes."""

    def note(self, text: str) -> None:
        """A line of its own that doesn't tear the bar."""

    def close(self) -> None:
        """Nothing more comes."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NullProgress:
    """Shows nothing; also what the other kinds share."""

    def advance(self, loss: float, pairs: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class BarProgress(NullProgress):
    """A tqdm bar: steps, time left, loss, pairs a second."""

    def __init__(self, total: int, done: int, stream: Stream) -> None:
        self._stream = stream
        self._bar = tqdm(total=total, initial=done, file=stream, desc="train", unit="step", dynamic_ncols=True)
        self._rate = Rate()

    def advance(self, loss: float, pairs: int) -> None:
        self._rate.add(pairs)
        self._bar.set_postfix_str(f"loss {loss:.4f}, {self._rate.pairs:.0f} pairs/s", refresh=False)
        self._bar.update()

    def note(self, text: str) -> None:
        self._bar.clear()
        self._stream.write(text + "\n")
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


class LineProgress(NullProgress):
    """One line at the first step, then at most every `interval` seconds, and at the last step."""

    def __init__(self, total: int, done: int, stream: Stream, interval: float = 10.0) -> None:
        self._total, self._done = total, done
        self._stream = stream
        self._interval = interval
        self._rate = Rate()
        self._shown: float | None = None

    def advance(self, loss: float, pairs: int) -> None:
        self._rate.add(pairs)
        self._done += 1
        now = self._rate.now
        if self._shown is None or now - self._shown >= self._interval or self._done == self._total:
            self._shown = now
            left = _clock((self._total - self._done) / self._rate.steps)
            rate = f"{self._rate.pairs:.0f} pairs/s"
            self.note(f"step {self._done}/{self._total}  loss {loss:.4f}  {rate}  {left} left")

    def note(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


class Rate:
    """Steps and pairs a second over about the last `window` steps: early slow steps soon stop to count."""

    def __init__(self, window: int = 50, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._keep = 1.0 - 1.0 / window
        self.now = clock()
        self._seconds = self._steps = self._pairs = 0.0

    def add(self, pairs: int) -> None:
        now = self._clock()
        self._seconds = self._keep * self._seconds + now - self.now
        self._steps = self._keep * self._steps + 1.0
        self._pairs = self._keep * self._pairs + pairs
        self.now = now

    @property
    def steps(self) -> float:
        return self._steps / max(self._seconds, 1e-9)

    @property
    def pairs(self) -> float:
        return self._pairs / max(self._seconds, 1e-9)


def make_progress(total: int, done: int = 0, is_main: bool = True, stream: Stream | None = None) -> Progress:
    """The kind that suits `stream` (standard error): a bar only in a terminal, only in the main process."""
    stream = sys.stderr if stream is None else stream
    if not is_main:
        return NullProgress()
    if stream.isatty():
        return BarProgress(total, done, stream)
    return LineProgress(total, done, stream)


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
