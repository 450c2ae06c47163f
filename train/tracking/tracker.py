"""What a tracker is, and the one that keeps nothing."""

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
    """What the loop and the report tell a tracking service."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers after `step` finished steps."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """The comparison at the end."""

    def uses(self, name: str, kind: str, facts: Facts) -> None:
        """Something the run was made from; the data and the base stay where they are, facts say which they are."""

    def artifact(self, name: str, kind: str, path: Path, facts: Facts | None = None) -> None:
        """A file or folder worth keeping; sent only where the configuration asks for it."""

    def finish(self) -> None:
        """Everything is on the disk, or on the server, when this returns."""


class NullTracker:
    """Tracks nothing: the `none` backend, and every process but the main one."""

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


def _earlier_metrics(run_dir: Path) -> Earlier:
    """(step, numbers) of every line; null stands for a number that JSON can't spell."""
    path = run_dir / METRICS
    lines = read_metrics(path) if path.is_file() else []
    return [(step_of(line), _numbers(line)) for line in lines]


def _numbers(line: Mapping[str, Value]) -> dict[str, float]:
    numbers = {key: math.nan if value is None else value for key, value in line.items() if key != "step"}
    return {key: value for key, value in numbers.items() if isinstance(value, int | float)}
