"""Choose the tracker of a run: W&B, TensorBoard or none."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dec2vec.errors import UserError
from dec2vec.text_tables import markdown_table
from train.config import TrackingConfig
from train.tracking.tracker import Cell, Earlier, Facts, NullTracker, Tracker, earlier_metrics
from train.tracking.wandb_tracker import start_wandb

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker:
    """Writes TensorBoard event files to `tensorboard/`. Files and inputs of the run are not recorded."""

    def __init__(self, writer: SummaryWriter) -> None:
        self._writer = writer
        self._step = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._step = step
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        lines = markdown_table(columns, [[_cell(value) for value in row] for row in rows])
        self._writer.add_text(name, "\n".join(lines), self._step)

    def uses(self, name: str, kind: str, facts: Facts) -> None:
        pass

    def artifact(self, name: str, kind: str, path: Path, facts: Facts | None = None) -> None:
        pass

    def finish(self) -> None:
        self._writer.close()


def make_tracker(
    config: TrackingConfig,
    run_dir: Path,
    resolved: Mapping[str, object],
    is_main: bool,
) -> Tracker:
    """The tracker of the configuration in the main process, and one that does nothing in the others.

    `resolved` is the resolved configuration as plain data, without anything of the environment. A resumed run has
    already truncated `metrics.jsonl` to its checkpoint. Its lines are logged again, because a killed run may not have
    sent them.
    """
    if not is_main or config.backend == "none":
        return NullTracker()
    earlier = earlier_metrics(run_dir)
    if config.backend == "tensorboard":
        return _tensorboard(run_dir, resolved, earlier)
    return start_wandb(config, run_dir, resolved, earlier)


def _tensorboard(run_dir: Path, resolved: Mapping[str, object], earlier: Earlier) -> Tracker:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "tracking.backend tensorboard needs the tensorboard package; pip install tensorboard"
        ) from error
    shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)  # all of it is written again from `earlier`
    writer = SummaryWriter(str(run_dir / "tensorboard"))
    writer.add_text("config", f"```\n{json.dumps(resolved, indent=1, default=str)}\n```")
    tracker = TensorBoardTracker(writer)
    for step, metrics in earlier:
        tracker.log(metrics, step)
    return tracker


def _cell(value: Cell) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return "" if value is None else str(value)
