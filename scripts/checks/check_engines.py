"""Show that every engine trains as one process does: losses, gradients and weights of five steps, side by side.

    python scripts/checks/check_engines.py configs/train/quickstart.yaml --worlds 2 4

Each run goes through the real launchers: torchrun for `--launcher torchrun` (the engine in the environment), or
`accelerate launch --config_file configs/accelerate/ENGINE.yaml`. The fifth batch is uneven: two rows, fewer than four
processes. Then a run of each engine resumes from one process's step 3. Gradients are read out of the
optimiser's first moments, so they are those that AdamW got. Anything that is no option of this script is handed on to
training (`--model.device cpu`). Dropout must be off, since each process draws masks of its own. Exit code 0 when no
number exceeds --tolerance, relatively. `--engines deepspeed-zero2 deepspeed-zero3` want the deepspeed package.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from hosts.engines import ENGINES
from safetensors.torch import load_file
from torch import Tensor

from train.tracking.metrics_file import read_metrics, step_of

STEPS, RESUMED_AFTER = 5, 3
BETA1 = 0.9


@dataclass(frozen=True)
class Differences:
    """The largest relative differences from one process (Euclidean, for tensors)."""

    losses: float
    gradients: float
    weights: float
    dev: float

    @property
    def worst(self) -> float:
        """What the tolerance is held against; nan counts as infinite."""
        return max(value if value == value else float("inf") for value in astuple(self))


def main(argv: Sequence[str]) -> int:
    """Run all, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration of a training run")
    parser.add_argument("--engines", nargs="+", default=["ddp", "fsdp2"], choices=list(ENGINES))
    parser.add_argument("--worlds", nargs="+", type=int, default=[2])
    parser.add_argument("--launcher", choices=["torchrun", "accelerate"], default="torchrun")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--folder", type=Path, default=Path("runs/check_engines"), help="where the runs go")
    options, rest = parser.parse_known_args(argv)
    shutil.rmtree(options.folder, ignore_errors=True)
    arguments = [options.config, *overrides(options.batch), *rest]
    alone, results, worst = options.folder / "one", [], 0.0
    seconds = _train([sys.executable, "-m", "dec2vec", "train", *arguments], {}, alone)
    results.append(["one", "1", "", "", "", "", "", f"{seconds:.0f}"])
    for engine in options.engines:
        for world in options.worlds:
            command, environment = _launch(options.launcher, engine, world)
            whole, resumed = (options.folder / f"{engine}-{world}{end}" for end in ("", "-resumed"))
            seconds = _train([*command, "-m", "dec2vec", "train", *arguments], environment, whole)
            begin_from(alone, resumed)
            _train([*command, "-m", "dec2vec", "train", *arguments], environment, resumed)
            found, gone_on = compare(whole, alone), compare(resumed, alone)
            worst = max(worst, found.worst, gone_on.worst)
            figures = [f"{value:.1e}" for value in (*astuple(found), gone_on.weights)]
            results.append([engine, str(world), *figures, f"{seconds:.0f}"])
    sys.stdout.write(_table(results) + f"\nlargest relative difference: {worst:.1e}\n")
    return 0 if worst <= options.tolerance else 1


def overrides(batch: int) -> list[str]:
    """Five steps over so many rows that the fifth has two; a checkpoint after each; nothing after training."""
    fixed = {
        "optim.steps": STEPS,
        "data.0.limit": (STEPS - 1) * batch + 2,
        "batch.size": batch,
        "lora.dropout": 0,
        "model.autocast": "off",  # in 16 bits other chunks are rounded too far apart to compare
        "checkpoint.every": 1,
        "checkpoint.keep": STEPS,
        "eval.every": STEPS,
        "eval.after_training": "false",
    }
    return [part for name, value in fixed.items() for part in (f"--{name}", str(value))]


def compare(run: Path, alone: Path) -> Differences:
    """Two run folders with a checkpoint after each step; a resumed one is compared from where it went on."""
    losses, expected = (_metrics(folder, "loss") for folder in (run, alone))
    if list(losses) != list(range(1, STEPS + 1)):
        raise SystemExit(f"{run}: steps {list(losses)} were logged instead of 1 to {STEPS}, once each")
    scores, their = (_metrics(folder, "dev_spearman") for folder in (run, alone))
    return Differences(
        losses=max(abs(losses[step] - expected[step]) / abs(expected[step]) for step in expected),
        gradients=max(_distance(*(_gradients(folder, step) for folder in (run, alone))) for step in expected),
        weights=_distance(*(_tensors(folder, STEPS, "adapter") for folder in (run, alone))),
        dev=max((abs(scores[step] - their[step]) for step in their), default=0.0),
    )


def begin_from(alone: Path, resumed: Path) -> None:
    """A run folder as it would be, had the one process been killed after step 3."""
    shutil.copytree(alone, resumed)
    for step in range(RESUMED_AFTER + 1, STEPS + 1):
        shutil.rmtree(_checkpoint(resumed, step))


def _launch(launcher: str, engine: str, world: int) -> tuple[list[str], dict[str, str]]:
    if launcher == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
        return command, ENGINES[engine]
    config = Path(__file__).resolve().parents[2] / "configs" / "accelerate" / f"{engine}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    return [*command, "--num_processes", str(world), "--main_process_port", "0"], {}


def _train(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> float:
    """Seconds that the run took."""
    command, started = [*command, "--output_dir", str(folder)], time.monotonic()
    result = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nfailed with exit code {result.returncode}:\n{result.stderr}")
    return time.monotonic() - started


def _metrics(run: Path, name: str) -> dict[int, float]:
    """By step; a step that was logged twice comes last, which the comparison finds."""
    lines = [line for line in read_metrics(run / "metrics.jsonl") if name in line]
    if len({step_of(line) for line in lines}) < len(lines):
        raise SystemExit(f"{run}: a step was logged twice")
    return {step_of(line): float(line[name] or 0.0) for line in lines}


def _checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def _tensors(run: Path, step: int, name: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(_checkpoint(run, step) / f"{name}.safetensors")
    return tensors


def _gradients(run: Path, step: int) -> dict[str, Tensor]:
    """What AdamW got at a step (after clipping), from its first moments after this step and the one before."""
    after = _tensors(run, step, "optimizer")
    before = _tensors(run, step - 1, "optimizer") if step > 1 else {}
    names = [name for name in after if name.endswith(".exp_avg")]
    return {name: (after[name] - BETA1 * before.get(name, torch.zeros(()))) / (1 - BETA1) for name in names}


def _distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Of all tensors as one vector."""
    if found.keys() != expected.keys():
        raise SystemExit(f"{sorted(found.keys() ^ expected.keys())[0]} is on one side only")
    apart = sum(float((found[name].double() - expected[name].double()).square().sum()) for name in expected)
    size = sum(float(expected[name].double().square().sum()) for name in expected)
    return float((apart / size) ** 0.5) if size else float(apart > 0)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = ["engine", "processes", "losses", "gradients", "weights", "dev", "resumed", "seconds"]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in [head, *rows]]
    return "\n".join(map("  ".join, lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
