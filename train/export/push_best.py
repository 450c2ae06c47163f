"""Each checkpoint that is the best on dev so far goes to the Hub while training runs.

The folder is written by the training process, between two steps; a thread uploads it. Of bests that come while one is
being uploaded only the newest is kept. A push that fails is a warning: the run, and the last push, are worth more.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from train.config import TrainConfig
from train.export.model_card import describe_data
from train.export.push import push_folder
from train.export.staging import needs_merging, staged

_STAGE = ".hub-best-"
_log = logging.getLogger(__name__)


def push_finished(config: TrainConfig, run: Path, encoder: Encoder) -> str:
    """The finished model with its report; a line that says where it is, or that it is not there and why."""
    export = config.export
    assert export.push is not None
    try:
        with staged(run, config, encoder, export.push, merge=export.merge) as folder:
            return f"pushed   {push_folder(folder, export.push, private=export.private)}"
    except UserError as error:
        _log.warning("%s; the run is whole: dec2vec export %s --push %s", error, run, export.push)
        return f"pushed   not yet: dec2vec export {run} --push {export.push}"


class BestPush:
    """One upload at a time, in the background; leaving the block waits for the last one."""

    def __init__(self, config: TrainConfig, run: Path, encoder: Encoder) -> None:
        self._config, self._run, self._encoder = config, run, encoder
        self._merge = config.export.merge or needs_merging(encoder)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self._waiting: tuple[Future[None], Path] | None = None
        self._facts = describe_data(config)
        for leftover in run.glob(f"{_STAGE}*"):  # of a killed run: the folder is locked, so it is nobody else's
            shutil.rmtree(leftover, ignore_errors=True)

    def __enter__(self) -> BestPush:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._drop_waiting()  # stopped or failed: what is on its way may arrive, nothing more is begun
        self._pool.shutdown(wait=True)

    def __call__(self, step: int, score: float) -> None:
        """Write the encoder as it is now, and have it uploaded."""
        self._drop_waiting()
        training = self._encoder.embedder.training
        self._encoder.embedder.eval()
        try:
            folder = self._written()
        except (UserError, OSError) as error:
            _log.warning("step %d was not pushed: %s", step, error)
            return
        finally:
            self._encoder.embedder.train(training)
        message = f"Step {step}: dev Spearman {100 * score:.2f}"
        self._waiting = (self._pool.submit(self._upload, folder, message), folder)

    def _written(self) -> Path:
        export = self._config.export
        assert export.push is not None
        job = staged(self._run, self._config, self._encoder, export.push, merge=self._merge, facts=self._facts)
        with job as stage:
            kept = Path(tempfile.mkdtemp(prefix=_STAGE, dir=self._run))
            return stage.rename(kept / "model").parent

    def _upload(self, folder: Path, message: str) -> None:
        export = self._config.export
        assert export.push is not None
        try:
            push_folder(folder / "model", export.push, private=export.private, message=message)
        except Exception as error:  # of a thread, where nobody else would see it
            _log.warning("%s was not pushed: %s", message.partition(":")[0].lower(), error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _drop_waiting(self) -> None:
        """One that has not begun is out of date."""
        if self._waiting is not None and self._waiting[0].cancel():
            shutil.rmtree(self._waiting[1], ignore_errors=True)
        self._waiting = None
