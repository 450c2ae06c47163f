"""`metrics.jsonl`: one JSON object per line, without gaps or repetitions even if a run is killed and resumed."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_bytes, why_not_written

Value = str | int | float | bool | None


class MetricsFile:
    """Appends lines and passes each to the operating system at once, so that a killed process loses none.

    `step` counts finished steps, as checkpoints do. Before a checkpoint of step n is saved, the lines up to n are
    appended and `sync` is called; when resuming from it, `truncate_after(n)` drops the later ones. Processes other
    than the main one pass `is_main=False` and write nothing.
    """

    def __init__(self, path: Path, is_main: bool = True) -> None:
        self._path = path
        self._is_main = is_main
        self._file: io.FileIO | None = None

    def append(self, metrics: Mapping[str, Value], step: int) -> None:
        """Write `{"step": step, ...}`. Numbers that are not finite become null, since JSON does not have them."""
        if not self._is_main:
            return
        line = json.dumps({"step": step, **{key: _finite(value) for key, value in metrics.items()}})
        try:
            self._write(line.encode("utf-8") + b"\n")
        except OSError as error:
            self.close()
            raise UserError(f"cannot write {self._path}: {why_not_written(error)}") from error

    def truncate_after(self, step: int) -> None:
        """Keep the lines of steps up to `step` as they are. A line torn by a crash is dropped too."""
        if not self._is_main or not self._path.exists():
            return
        self.close()
        lines = self._path.read_bytes().splitlines(keepends=True)
        kept = b"".join(line for line in lines if _is_kept(line, step))
        try:
            atomic_write_bytes(self._path, kept)
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {why_not_written(error)}") from error

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {why_not_written(error)}") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        """Write without a buffer, so that the line survives SIGKILL when this returns."""
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
        while line:
            line = line[self._file.write(line) :]


def read_metrics(path: Path) -> list[dict[str, Value]]:
    """All complete lines."""
    lines = path.read_bytes().splitlines(keepends=True)
    return [line for line in map(_parsed, lines) if line is not None]


def step_of(line: Mapping[str, Value]) -> int:
    """The step of a line that `read_metrics` returned."""
    step = line["step"]
    if not isinstance(step, int):
        raise ValueError(f"step is {step!r}")
    return step


def _parsed(line: bytes) -> dict[str, Value] | None:
    """The object of a line; None for a line torn by a crash."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and isinstance(value.get("step"), int) else None


def _is_kept(line: bytes, step: int) -> bool:
    parsed = _parsed(line)
    return parsed is not None and step_of(parsed) <= step


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value
