"""The run that nothing disturbs, beside that of one process: losses and adapter must be the same up to rounding."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hosts.breakages import PATIENCE, Plan
from train.tracking.metrics_file import read_metrics, step_of

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Equality:
    """How far both runs are apart."""

    ranks: int
    sha256: str
    """Of the two hosts' adapter."""
    losses: float
    """Largest relative difference of a step's loss."""
    adapter: float
    """Relative difference of the adapters, as one vector."""
    seconds: float
    """Of the run on two hosts, from its start to its end."""

    @property
    def faults(self) -> list[str]:
        """None, or one; nan is one, too."""
        close = self.losses <= TOLERANCE and self.adapter <= TOLERANCE
        return [] if close else [f"undisturbed: losses {self.losses:.1e}, adapter {self.adapter:.1e} off one process"]


def undisturbed(plan: Plan) -> Equality:
    """Run on both hosts, then in one process."""
    began = time.monotonic()
    with plan.launch("undisturbed") as run:
        run.finish(PATIENCE)
    seconds = time.monotonic() - began
    alone = plan.folder / "alone"
    shutil.rmtree(alone, ignore_errors=True)
    _train_alone([*plan.options, "--output_dir", str(alone)])
    return Equality(
        ranks=len(plan.hosts) * plan.processes,
        sha256=run.weights,
        losses=float(np.max(np.abs(_losses(run.folder, plan.steps) / _losses(alone, plan.steps) - 1))),
        adapter=_distance(run.folder, alone),
        seconds=seconds,
    )


def _train_alone(options: Sequence[str]) -> None:
    command = [sys.executable, "-m", "dec2vec", "train", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nfailed with exit code {result.returncode}:\n{result.stderr}")


def _losses(folder: Path, steps: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    lines = [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    if [step_of(line) for line in lines] != list(range(1, steps + 1)):
        raise SystemExit(f"{folder}/metrics.jsonl: not the steps 1 to {steps}, once each")
    return np.array([float(line["loss"] or 0) for line in lines])


def _distance(found: Path, expected: Path) -> float:
    from safetensors.numpy import load_file

    ours, theirs = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (found, expected))
    apart = sum(float(np.square(ours[name] - theirs[name]).sum()) for name in theirs)
    return float((apart / sum(float(np.square(value).sum()) for value in theirs.values())) ** 0.5)
