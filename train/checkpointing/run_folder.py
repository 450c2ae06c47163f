"""The folder of a run: locked by one process at a time, with a fixed name for each file in it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from filelock import BaseFileLock

from dec2vec.decoder.model_folders import MARKER
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, remove_leftovers, why_not_written
from dec2vec.files.lock import lock_folder
from train.checkpointing.checkpoint import discard_checkpoints
from train.tracking.tracker import METRICS, WANDB_ID


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run folder, and the lock on it, which is held until `release` or the end of the process."""

    path: Path
    _lock: BaseFileLock | None = None

    @classmethod
    def claim(cls, path: str | Path) -> RunFolder:
        """Create the folder and lock it (main process only; the others use `RunFolder(path)`).

        The lock belongs to the operating system, so a killed run leaves none behind.
        """
        folder = Path(path)
        try:
            lock = lock_folder(folder, "output_dir", "run")
        except OSError as error:
            raise UserError(f"cannot use output_dir {folder}: {why_not_written(error)}") from error
        remove_leftovers(folder)
        return cls(folder, lock)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def data(self) -> Path:
        return self.path / "data.json"

    @property
    def negatives(self) -> Path:
        return self.path / "negatives"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def write_config(self, text: str) -> None:
        """Write the resolved configuration; called after the checkpoints have been checked against it."""
        try:
            atomic_write_text(self.config, text)
        except OSError as error:
            raise UserError(f"cannot write {self.config}: {why_not_written(error)}") from error

    def start_anew(self) -> None:
        """Delete an earlier run's checkpoints, metrics and W&B id, so that nothing of it is resumed.

        Its report and its exports are deleted too, since they would look like the new run's.
        """
        try:
            discard_checkpoints(self.checkpoints)
            shutil.rmtree(self.negatives, ignore_errors=True)
            self.metrics.unlink(missing_ok=True)
            (self.path / WANDB_ID).unlink(missing_ok=True)
            (self.report / "report.json").unlink(missing_ok=True)
            for exported in (self.adapter, self.model):
                if (exported / MARKER).is_file():
                    shutil.rmtree(exported)
        except OSError as error:
            raise UserError(f"cannot clear {self.path}: {why_not_written(error)}") from error

    def release(self) -> None:
        """Release the lock, so that another run can use the folder."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
