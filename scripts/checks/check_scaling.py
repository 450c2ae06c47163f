"""One run on 1, 2 and 4 processes, each pinned to a core: seconds, processor seconds and bytes on the wire of a step.

    python scripts/checks/check_scaling.py configs/train/quickstart.yaml --batch.size 128

Runs in a network namespace, so that all that its loopback counts is this run's (headers, acknowledgements and the
launcher's heartbeats included); with --hosts 2 in two, one process each, and the cable between them counts. The bytes
stand beside those of the paper model (scaling/cost.py) and the least possible. More processes than cores say
nothing about scaling in time, and are marked; their bytes and processor seconds count all the same. What is no option
of this script is handed on to training. Exit code 0 when the wire has within 5 % what the model says, 77 where
namespaces are not allowed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hosts.launch import Launch
from hosts.network import Host, one_host, run_inside, two_hosts
from scaling.cost import Work, least, sent

PATIENCE = 600.0
TOLERANCE = 0.05
HEAD = (
    "| processes | s a step | speed-up | efficiency | processor s a step | bytes a step | model | least "
    "| of the model | of the least |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Moment:
    """What had been used when a number of steps was done."""

    steps: int
    clock: float
    processor: float
    wire: int


@dataclass(frozen=True)
class Row:
    """A step on `world` processes: means over the counted ones; bytes are those of all processes together."""

    world: int
    cores: int
    """That they share."""
    seconds: float
    processor: float
    wire: float
    model: float
    least: float


def main(argv: Sequence[str]) -> int:
    """Run each size; prints the table and writes results.json."""
    options, overrides = _parser().parse_known_args(argv)
    run_inside()
    rows: list[Row] = []
    with _hosts(options.hosts) as hosts:
        for world in [len(hosts)] if len(hosts) > 1 else options.processes:
            rows.append(_measure(hosts, world, options, overrides))
            _say(f"{HEAD}\n{_line(rows[-1], rows[0])}" if len(rows) == 1 else _line(rows[-1], rows[0]))
    found = json.dumps([asdict(row) for row in rows], indent=1)
    (options.folder / "results.json").write_text(found + "\n", encoding="utf-8")
    return 0 if all(abs(row.wire - row.model) <= TOLERANCE * row.model for row in rows if row.world > 1) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration of a training run")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--hosts", type=int, default=1, choices=[1, 2], help="2: a process on each, and no other size")
    parser.add_argument("--steps", type=int, default=20, help="that are counted")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--folder", type=Path, default=Path("runs/check_scaling"), help="where the runs go")
    return parser


@contextlib.contextmanager
def _hosts(number: int) -> Iterator[tuple[Host, ...]]:
    if number == 1:
        yield (one_host(),)
        return
    with two_hosts() as hosts:
        yield hosts


def _measure(hosts: Sequence[Host], world: int, options: argparse.Namespace, overrides: Sequence[str]) -> Row:
    last = options.warmup + options.steps
    fixed = ["--optim.steps", str(last + 2), "--checkpoint.every", str(last + 2), "--eval.every", str(last + 2)]
    arguments = [options.config, *fixed, "--eval.after_training", "false", "--export.model", "false", *overrides]
    folder = options.folder / f"p{world}"
    with Launch(hosts, world // len(hosts), folder, arguments, restarts=0, pinned=True) as run:
        first, end = (_at(run, steps) for steps in (options.warmup, last))
        run.finish(PATIENCE)
    steps, work = end.steps - first.steps, _work(folder)
    return Row(
        world=world,
        cores=min(world, len(os.sched_getaffinity(0))),
        seconds=(end.clock - first.clock) / steps,
        processor=(end.processor - first.processor) / steps,
        wire=(end.wire - first.wire) / steps,
        model=world * sum(sent(work, world).values()),
        least=world * least(work, world),
    )


def _at(run: Launch, steps: int) -> Moment:
    """Right after a step is logged nothing is under way: the next one meets the others when its vectors are ready."""
    run.until(lambda: run.steps() >= steps, PATIENCE)
    wire = sum(host.sent() for host in run.hosts)
    return Moment(run.steps(), time.monotonic(), sum(map(_processor_seconds, run.workers().values())), wire)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _work(folder: Path) -> Work:
    """Of the run that was made: from its configuration, its data and what it saved."""
    from safetensors.numpy import load_file

    from dec2vec.config.load import load
    from train.build import load_base
    from train.config import TrainConfig
    from train.data.dataset import load_data

    config = load(TrainConfig, folder / "config.yaml", [])
    texts = [row for table in load_data(config.data).tables for row in table.texts]
    documents = sum(len(row) - 1 for row in texts) / len(texts)
    trained = sum(value.size for value in load_file(folder / "adapter" / "adapter_model.safetensors").values())
    return Work(config.batch.size, documents, load_base(config.model).dimension, trained)


def _line(row: Row, alone: Row) -> str:
    """Speed-up and efficiency only beside one process."""
    speed = alone.seconds / row.seconds
    gain = f"{speed:.2f} | {speed / row.cores:.0%}" if alone.world == 1 else "|"
    shared = f" on {row.cores} core{'s' * (row.cores > 1)}" if row.world > row.cores else ""
    time_ = f"{row.seconds:.3f} | {gain} | {row.processor:.3f}"
    shares = f"{row.wire / row.model:.3f} | {row.wire / row.least:.3f}" if row.least else "|"
    return f"| {row.world}{shared} | {time_} | {row.wire:,.0f} | {row.model:,.0f} | {row.least:,.0f} | {shares} |"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
