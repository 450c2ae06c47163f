"""Kill a training run again and again, resume it each time, and compare its weights with an undisturbed run's.

    python scripts/checks/check_kills.py configs/train/quickstart.yaml --kills 10 --steps 60

A kill is a SIGKILL at a moment drawn at random between the start of the process and about the end of its fair share
of the run; one of three waits for the next checkpoint and comes while that is being written. Anything that is no
option of this script is handed on (`--batch.size 32`). Exit code 0 when the weights are equal bit for bit.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.tracking.metrics_file import read_metrics, step_of

UNTIMED = ("step", "loss", "lr", "grad_norm", "temperature", "dev_spearman")
MAX_STARTS = 5


@dataclass(frozen=True)
class Attempt:
    """One folder that `python -m dec2vec train` is run in."""

    folder: Path
    command: Sequence[str]

    @property
    def lines(self) -> list[dict[str, object]]:
        """The logged metrics, without what the clock decides."""
        path = self.folder / "metrics.jsonl"
        return [{key: line.get(key) for key in UNTIMED} for line in read_metrics(path)] if path.exists() else []

    @property
    def logged(self) -> int:
        """Steps that `metrics.jsonl` knows."""
        path = self.folder / "metrics.jsonl"
        return max(map(step_of, read_metrics(path)), default=0) if path.exists() else 0

    def logged_since(self, moment: float) -> int:
        """The same, without what a run before `moment` has left."""
        path = self.folder / "metrics.jsonl"
        with contextlib.suppress(FileNotFoundError):
            return self.logged if path.stat().st_mtime > moment else 0
        return 0

    @property
    def saved(self) -> int:
        """Step of the newest checkpoint."""
        names = [path.name for path in (self.folder / "checkpoints").glob("step-*")]
        return max((int(name.removeprefix("step-")) for name in names), default=0)

    def is_saving(self, since: float) -> bool:
        """Whether a checkpoint is being written; an earlier kill may have left the beginning of one."""
        with contextlib.suppress(FileNotFoundError):
            found = (self.folder / "checkpoints").glob(".step-*.tmp")
            return any(path.stat().st_mtime > since for path in found)
        return False

    @property
    def weights(self) -> str:
        """sha256 of the adapter, or of the whole model where all weights were tuned."""
        adapter, model = self.folder / "adapter" / "adapter_model.safetensors", self.folder / "model"
        path = adapter if adapter.is_file() else model / "model.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @contextlib.contextmanager
    def running(self, *overrides: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process group of its own, so that helpers of the run die with it; SIGKILL for what runs on."""
        command = [*self.command, "--output_dir", str(self.folder), *overrides]
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder.with_name(f"{self.folder.name}.log")
        with log.open("wb") as file:
            process = subprocess.Popen(command, start_new_session=True, stdout=file, stderr=file)
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"{' '.join(command)}\nfailed with exit code {process.returncode}; see {log}")


@dataclass(frozen=True)
class Times:
    """Seconds until the first step is logged, of a step, and from the last step to the end."""

    start: float
    step: float
    finish: float


def main(argv: Sequence[str]) -> int:
    """Run, kill, compare."""
    options, overrides = _parser().parse_known_args(argv)
    every = max(1, options.steps // 12)
    fixed = ["--optim.steps", str(options.steps), "--checkpoint.every", str(every), "--eval.after_training", "false"]
    command = [sys.executable, "-m", "dec2vec", "train", options.config, *fixed, *overrides]
    undisturbed, killed = (Attempt(options.folder / name, command) for name in ("undisturbed", "killed"))
    times = _undisturbed(undisturbed, options.steps)
    draw = random.Random(options.seed)
    if not any(_kill_and_resume(killed, times, options, draw) for _ in range(MAX_STARTS)):
        _say(f"the run ended before the last kill in all of {MAX_STARTS} trials; give it more --steps")
        return 1
    equal = undisturbed.weights == killed.weights
    _say(f"\nundisturbed  {undisturbed.weights}\nkilled       {killed.weights}")
    _say("the weights are equal" if equal else "the weights DIFFER")
    same_lines = undisturbed.lines == killed.lines
    _say(f"metrics.jsonl: {len(killed.lines)} lines, {'equal' if same_lines else 'DIFFERENT'}")
    return 0 if equal and same_lines else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration of a training run")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--folder", type=Path, default=Path("runs/check_kills"), help="where the two runs go")
    return parser


def _undisturbed(attempt: Attempt, steps: int) -> Times:
    """Run to the end, and learn how long its parts take."""
    began, clock = time.monotonic(), time.time()
    first, last = (0.0, 0), (0.0, 0)
    with attempt.running("--checkpoint.resume", "fresh") as process:
        while process.poll() is None:
            now, logged = time.monotonic() - began, attempt.logged_since(clock)
            last = (now, logged) if logged > last[1] else last
            first = first if first[1] else last
            time.sleep(0.02)
    end = time.monotonic() - began
    step = (last[0] - first[0]) / max(1, last[1] - first[1])
    times = Times(first[0] or end, step, max(0.0, end - last[0] - step * (steps - last[1])))
    _say(f"undisturbed: {end:.1f} s; start {times.start:.1f} s, step {times.step:.3f} s, finish {times.finish:.1f} s")
    return times


def _kill_and_resume(attempt: Attempt, times: Times, options: argparse.Namespace, draw: random.Random) -> bool:
    """All kills and the run to the end; False when the run ended before they were used up."""
    _say(f"\n{'kill':>4}  {'after':>7}  {'moment':<10}  {'logged':>6}  {'saved':>5}")
    trial = time.time()
    for kill in range(1, options.kills + 1):
        anew = not attempt.logged_since(trial)
        saved, before = (0, []) if anew else (attempt.saved, attempt.lines)
        share = min(1.0, 2.0 / (options.kills - kill + 1))
        left = (times.step * (options.steps - saved) + times.finish) * share
        delay, clock = draw.uniform(0.0, times.start + 0.9 * left), time.time()
        seconds = _run_and_kill(attempt, delay, anew, wait_for_checkpoint=draw.random() < 1 / 3)
        if seconds is None:
            _say(f"{kill:>4}  the run ended before the kill; starting anew")
            return False
        logged = attempt.logged_since(trial)
        moment = _moment(attempt, before, clock, options.steps) if logged else "start-up"
        saved = attempt.saved if logged else 0
        _say(f"{kill:>4}  {seconds:>6.1f}s  {moment:<10}  {logged:>6}  {saved:>5}  SIGKILL")
    with attempt.running() as process:
        process.wait()
    return True


def _run_and_kill(attempt: Attempt, delay: float, anew: bool, *, wait_for_checkpoint: bool) -> float | None:
    """Seconds that the process lived, None when it ended by itself."""
    began, clock = time.monotonic(), time.time()
    with attempt.running(*(["--checkpoint.resume", "fresh"] if anew else [])) as process:
        while process.poll() is None:
            lived = time.monotonic() - began
            if lived >= delay and (attempt.is_saving(clock) or not wait_for_checkpoint):
                return lived
            time.sleep(0.001 if lived >= delay else min(0.01, delay - lived))
    return None


def _moment(attempt: Attempt, before: list[dict[str, object]], began: float, steps: int) -> str:
    """What the kill came into: resuming only cuts the file that was there."""
    if attempt.is_saving(began):
        return "checkpoint"
    if before[: len(attempt.lines)] == attempt.lines:
        return "start-up"
    return "finish" if attempt.saved == steps else "step"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
