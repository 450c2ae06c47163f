"""The next step's batch, tokenised by a thread while this step runs.

A batch is a function of the step's number alone (until `forget`), so nothing of the order changes and a resumed run
needs no more.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from train.data.batch import LocalBatch


class Prefetch:
    """Batches of steps `start`, `start` + 1 ... below `stop`, at most one ahead; errors come with their batch."""

    def __init__(self, make: Callable[[int], LocalBatch], stop: int, *, ahead: bool = True) -> None:
        self._make = make
        self._stop = stop
        self._ahead = ahead
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch")
        self._coming: tuple[int, Future[LocalBatch]] | None = None

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def batch(self, step: int) -> LocalBatch:
        """The batch of a step, while that of the next one is begun."""
        found = self._coming[1].result() if self._coming and self._coming[0] == step else self._make(step)
        self._coming = None
        if self._ahead and step + 1 < self._stop:
            self._coming = (step + 1, self._thread.submit(self._make, step + 1))
        return found

    def settle(self) -> None:
        """Wait for the thread: a tokenizer serves one thread at a time, and an evaluation needs it too."""
        if self._coming is not None:
            self._coming[1].exception()

    def forget(self) -> None:
        """Wait for the thread, and drop what it made: the data have changed."""
        self.settle()
        self._coming = None
