"""The interface of a tracker, and the tracker that does nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from train.tracking.metrics_file import Value, read_metrics, step_of

Cell = str | int | float | None
Facts = Mapping[str, object]
Earlier = list[tuple[int, dict[str, float]]]
METRICS = "metrics.jsonl"
WANDB_ID = "wandb_id"


@runtime_checkable
class Tracker(Protocol):
    """A service that gets metrics, tables and files of a run."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers after `step` finished steps."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Record a table, such as the comparison after training."""

    def uses(self, name: str, kind: str, facts: Facts) -> None:
        """Record an input of the run, such as the data or the base model. Only the facts about it are sent."""

    def artifact(self, name: str, kind: str, path: Path, facts: Facts | None = None) -> None:
        """Record a file or folder. It is sent only if the configuration says so."""

    def finish(self) -> None:
        """Wait until everything is on the disk or on the server."""


class NullTracker:
    """Does nothing: the backend `none`, and every process except the main one."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        pass

    def uses(self, name: str, kind: str, facts: Facts) -> None:
        pass

    def artifact(self, name: str, kind: str, path: Path, facts: Facts | None = None) -> None:
        pass

    def finish(self) -> None:
        pass


def earlier_metrics(run_dir: Path) -> Earlier:
    """(step, numbers) of every line of metrics.jsonl. null stands for a number that is not finite."""
    path = run_dir / METRICS
    lines = read_metrics(path) if path.is_file() else []
    return [(step_of(line), _numbers(line)) for line in lines]


def _numbers(line: Mapping[str, Value]) -> dict[str, float]:
    numbers = {key: math.nan if value is None else value for key, value in line.items() if key != "step"}
    return {key: value for key, value in numbers.items() if isinstance(value, int | float)}
