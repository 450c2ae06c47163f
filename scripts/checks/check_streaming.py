"""Memory, first step and resume of a run whose rows are streamed, at two numbers of generated rows.

    python scripts/checks/check_streaming.py --rows 1000000 10000000 --folder runs/check_streaming

For each number a .jsonl file of that many pairs is generated, and a tiny random decoder is trained on it with the
command `dec2vec train`: from nothing to its first steps, and then from a checkpoint of step 5,000. To spare the 5,000
steps the checkpoint of the first run is saved again as that of step 5,000, by the functions that a run calls.

Peak memory is the kernel's (VmHWM) of the training process; seconds are from the start of the command to the line of
the step in metrics.jsonl, and beside them the processor's. Exit code 0 when the peak of the larger number is at most
1.15 times that of the smaller, and first step and resume take at most 60 s of the clock, or of the processor if others
use it too (--shared).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from check_million import tiny_decoder

RESUMED = 5000
FIRST = 200
"""Steps of the first run, so that it reads rows of a whole window."""
SECONDS, RATIO = 60.0, 1.15
WORDS = (
    "red green blue apple river stone cloud house small large quick slow bird tree cold warm night day moon star light "
    "dark glass paper water fire road bridge garden window"
)


@dataclass(frozen=True)
class Figure:
    """One start of the command."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def generate(path: Path, rows: int) -> None:
    """Pairs of short texts, no two alike."""
    draw, words = random.Random(0), WORDS.split()
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            one, two, three, four, five, six = draw.choices(words, k=6)
            file.write(
                f'{{"anchor": "{one} {two} {three} {number}", "positive": "the {four} {five} {six} of {number}"}}\n'
            )


def command(folder: Path, data: Path, *more: str) -> list[str]:
    """The command of a run whose steps are cheap."""
    options = {
        "model.name_or_path": str(folder / "decoder"),
        "model.max_length": "32",
        "data.0.path": str(data),
        "data.0.streaming": "true",
        "batch.size": "256",
        "batch.chunk_tokens": "8192",
        "lora.rank": "2",
        "optim.steps": str(RESUMED + FIRST),
        "tracking.every": "1",
        "checkpoint.every": str(RESUMED + FIRST),
        "output_dir": str(data.with_suffix("")),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "dec2vec", "train", *words, *more]


def timed(words: list[str], metrics: Path, step: int, last: int) -> Figure:
    """Run the command until step `last`, and stop it there; time and memory."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(metrics.parent.parent / "cache"), "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    with metrics.parent.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
    seconds, cpu = 0.0, 0.0
    while process.poll() is None:
        reached = _last_step(metrics)
        if not seconds and reached >= step:
            seconds, cpu = time.monotonic() - started, _cpu_seconds(process.pid)
        if reached >= last:
            peak = _peak_mib(process.pid)
            process.send_signal(signal.SIGTERM)
            process.wait()
            return Figure(seconds, cpu, peak)
        time.sleep(0.05)
    raise SystemExit(f"the run ended early: see {metrics.parent.with_suffix('.log')}")


def _last_step(metrics: Path) -> int:
    if not metrics.is_file():
        return 0
    lines = metrics.read_bytes().splitlines()
    return int(json.loads(lines[-1])["step"]) if lines and lines[-1].endswith(b"}") else 0


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def save_as_step(words: list[str], step: int) -> None:
    """Save the latest checkpoint again as that of `step`."""
    from dec2vec.config.load import load_arguments
    from train.build import build, open_folder
    from train.config import TrainConfig
    from train.data.dataset import load_data
    from train.distributed.engine import make_accelerator
    from train.resolve import resolve
    from train.state import save

    config = resolve(load_arguments(TrainConfig, words, prog="dec2vec train"))
    accelerator = make_accelerator(config)
    with open_folder(config, accelerator) as folder:
        run = build(config, load_data(config.data), accelerator, folder, None, {})
        run.state.step = step
        with run.metrics:
            save(run)


def measure(folder: Path, rows: int) -> tuple[Figure, Figure]:
    """The first steps of a run over so many rows, and those after step 5,000."""
    data = folder / f"pairs-{rows}.jsonl"
    if not data.is_file():
        generate(data, rows)
    shutil.rmtree(data.with_suffix(""), ignore_errors=True)
    metrics = data.with_suffix("") / "metrics.jsonl"
    words = command(folder, data)
    first = timed(words, metrics, 1, FIRST)
    environment = {**os.environ, "HF_DATASETS_CACHE": str(folder / "cache")}
    again = [sys.executable, __file__, "--save", *words[4:]]
    subprocess.run(again, env=environment, check=True)
    return first, timed(words, metrics, RESUMED + 1, RESUMED + FIRST // 2)


def main() -> int:
    """Measure, print the table, and judge it."""
    if sys.argv[1:2] == ["--save"]:
        save_as_step(sys.argv[2:], RESUMED)
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--folder", type=Path, default=Path("runs/check_streaming"))
    parser.add_argument("--shared", action="store_true", help="others use this machine: judge the processor's seconds")
    options = parser.parse_args()
    shutil.rmtree(options.folder / "cache", ignore_errors=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    tiny_decoder(options.folder / "decoder")
    found = [measure(options.folder.resolve(), rows) for rows in options.rows]
    lines = ["| rows | start | seconds to the step | of the processor | peak MiB |", "|---:|---|---:|---:|---:|"]
    for rows, figures in zip(options.rows, found, strict=True):
        for name, figure in zip(("first step", f"resume at {RESUMED}"), figures, strict=True):
            lines.append(
                f"| {rows:,} | {name} | {figure.seconds:.1f} | {figure.cpu_seconds:.1f} | {figure.peak_mib:.0f} |"
            )
    slowest = max(f.cpu_seconds if options.shared else f.seconds for figures in found for f in figures)
    pairs = [both for one, other in pairwise(found) for both in zip(one, other, strict=True)]
    grown = max((after.peak_mib / before.peak_mib for before, after in pairs), default=1.0)
    lines.append(f"\npeak memory: {grown:.3f} times that of fewer rows; slowest start {slowest:.1f} s")
    sys.stdout.write("\n".join(lines) + "\n")
    return int(slowest > SECONDS or grown > RATIO)


if __name__ == "__main__":
    sys.exit(main())
