"""SIGTERM and SIGINT as a flag read between steps, so that a run can save before it stops."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_Handler = Callable[[int, FrameType | None], object] | int | None


class Interrupts:
    """Within, the first SIGTERM or SIGINT only sets `received`; afterwards the old handlers are restored.

    A SIGINT after an earlier signal aborts at once (KeyboardInterrupt), unless it comes within `grace` seconds of it:
    one Ctrl-C reaches a worker twice, from the terminal and from its launcher. Signals can only be handled in the main
    thread; in another thread this does nothing.
    """

    def __init__(self, grace: float = 1.0) -> None:
        self.received: signal.Signals | None = None
        self._grace = grace
        self._when = 0.0
        self._previous: dict[signal.Signals, _Handler] = {}

    def __bool__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._when = signal.Signals(number), now
        elif number == signal.SIGINT and now - self._when >= self._grace:
            raise KeyboardInterrupt
