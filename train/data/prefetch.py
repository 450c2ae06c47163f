"""The next step's batch, tokenized by a thread while this step runs.

A batch depends only on the number of its step (until `forget`), so the order of the data is the same with and without
the thread, and a resumed run needs no further state.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from train.data.batch import LocalBatch


class Prefetch:
    """Batches of the steps below `stop`, made at most one step ahead; an error is raised when its batch is requested.

    `ahead=False` makes each batch when it is requested, as the reference for tests.
    """

    def __init__(self, make: Callable[[int], LocalBatch], stop: int, *, ahead: bool = True) -> None:
        self._make = make
        self._stop = stop
        self._ahead = ahead
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="next-batch")
        self._next: tuple[int, Future[LocalBatch]] | None = None

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def batch(self, step: int) -> LocalBatch:
        """The batch of a step; the thread starts on the batch of the next one."""
        batch = self._next[1].result() if self._next and self._next[0] == step else self._make(step)
        self._next = None
        if self._ahead and step + 1 < self._stop:
            self._next = (step + 1, self._thread.submit(self._make, step + 1))
        return batch

    def settle(self) -> None:
        """Wait for the thread: a tokenizer may be used by one thread at a time, and an evaluation needs it too."""
        if self._next is not None:
            self._next[1].exception()

    def forget(self) -> None:
        """Wait for the thread and drop its batch, because the data have changed."""
        self.settle()
        self._next = None
