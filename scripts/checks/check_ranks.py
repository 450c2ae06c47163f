"""Show that two processes train as one: the losses of both runs side by side.

    python scripts/checks/check_ranks.py configs/train/quickstart.yaml --steps 20

Anything that is no option of this script is handed on to training (`--batch.size 32`). Dropout is off, since each
process draws different masks. Exit code 0 when no loss differs by more than --tolerance, relatively.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from train.tracking.metrics_file import read_metrics, step_of

WORLD = 2


def main(argv: Sequence[str]) -> int:
    """Run both, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration of a training run")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--folder", type=Path, default=Path("runs/check_ranks"), help="where the two runs go")
    options, overrides = parser.parse_known_args(argv)
    fixed = ["--optim.steps", str(options.steps), "--lora.dropout", "0", "--checkpoint.resume", "fresh"]
    arguments = ["-m", "dec2vec", "train", options.config, *fixed, "--eval.after_training", "false", *overrides]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(WORLD)]
    one = _losses(arguments, options.folder / "one", world=1)
    two = _losses([*launcher, *arguments], options.folder / "two", world=WORLD)
    return 0 if _compare(one, two, options.steps) <= options.tolerance else 1


def _losses(arguments: Sequence[str], folder: Path, *, world: int) -> list[tuple[int, float]]:
    """(step, loss) of every training line, once the run has said how many processes it had."""
    command = [sys.executable, *arguments, "--output_dir", str(folder)]
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nfailed with exit code {result.returncode}:\n{result.stderr}")
    if (f"{world} processes" in result.stderr) != (world > 1):
        raise SystemExit(f"{' '.join(command)}\ndid not run with {world} processes:\n{result.stderr}")
    return [
        (step_of(line), float(line["loss"] or 0.0)) for line in read_metrics(folder / "metrics.jsonl") if "loss" in line
    ]


def _compare(one: list[tuple[int, float]], two: list[tuple[int, float]], steps: int) -> float:
    """Print the table; the largest relative difference, infinite when a step is missing or logged twice."""
    lines = [f"{'step':>4}  {'1 process':>11}  {f'{WORLD} processes':>11}  {'difference':>10}"]
    worst = 0.0
    for (step, alone), (_, shared) in zip(one, two, strict=False):
        worst = max(worst, abs(shared - alone) / max(abs(alone), 1e-12))
        lines.append(f"{step:>4}  {alone:>11.7f}  {shared:>11.7f}  {shared - alone:>10.1e}")
    if not [step for step, _ in one] == [step for step, _ in two] == list(range(1, steps + 1)):
        lines.append("the steps logged are not the same, once each")
        worst = float("inf")
    sys.stdout.write("\n".join([*lines, f"largest relative difference: {worst:.1e}", ""]))
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
