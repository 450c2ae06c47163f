"""Time and memory of the loss stage alone, forward and backward: ours against sentence-transformers' two losses.

    OMP_NUM_THREADS=2 python scripts/benchmarks/bench_loss.py --batch 1024 4096 --repeats 5

`plain` is MultipleNegativesRankingLoss, `cached` is what CachedMultipleNegativesRankingLoss does between its two passes
over the texts (`calculate_loss` with its backward, over mini-batches of --mini-batch). All get the same embeddings of
`--dim` dimensions and give their gradients; the sides take turns. Processor time is the truer
measure with one thread on a machine that does other work too. Memory is the growth of the process's peak while one
side runs once, in a process of its own: "working" is what remains without the gradient that every side hands back.
Prints a line of JSON for each batch size. Exit code 1 when the sides disagree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from train.data.prompted_input import text_keys
from train.losses.infonce.infonce import infonce
from train.losses.inputs import NO_ID, PairInputs
from train.losses.objective import Temperature
from train.options.losses import LossConfig

TEMPERATURE = 0.05
Side = Callable[[], tuple[float, list[Tensor]]]
"""Loss, and its gradient at queries and documents, in parts."""


def main(argv: Sequence[str]) -> int:
    """Measure every batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1024, 4096], help="up to 32768")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mini-batch", type=int, default=32, help="of the cached loss")
    parser.add_argument("--peers", nargs="*", choices=["plain", "cached"], default=["plain", "cached"])
    parser.add_argument("--memory-of", choices=["ours", "plain", "cached"], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.memory_of:
        _say({"bytes": _peak_growth(options)})
        return 0
    agreed = True
    for batch in options.batch:
        result, same = _measure(batch, options)
        _say(result)
        agreed = agreed and same
    return 0 if agreed else 1


def _measure(batch: int, options: argparse.Namespace) -> tuple[dict[str, object], bool]:
    sides = {name: _side(name, batch, options) for name in ["ours", *options.peers]}
    first = {name: side() for name, side in sides.items()}  # also warms up
    ours = torch.cat(first["ours"][1]).double()
    cosines = {
        name: float((torch.cat(gradients) * ours).sum() / torch.cat(gradients).double().norm() / ours.norm())
        for name, (_, gradients) in first.items()
    }
    losses = {name: loss for name, (loss, _) in first.items()}
    del first, ours
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, side in sides.items():
            start, used = time.perf_counter(), time.process_time()
            side()
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - used)
    memory = {name: _memory_of(name, batch, options) for name in sides}
    working = {name: peak - 2 * batch * options.dim * 4 for name, peak in memory.items()}
    result: dict[str, object] = {
        "batch": batch,
        "dim": options.dim,
        "threads": torch.get_num_threads(),
        "loss": losses,
        "gradient_cosine": cosines,
        "seconds": {name: round(statistics.median(values), 4) for name, values in seconds.items()},
        "times_ours": {name: _ratio(values, seconds["ours"]) for name, values in seconds.items() if name != "ours"},
        "cpu_times_ours": {
            name: _ratio(values, processor["ours"]) for name, values in processor.items() if name != "ours"
        },
        "peak_bytes": memory,
        "working_bytes": working,
        "working_share_of_matrix": {name: round(size / (4 * batch**2), 4) for name, size in working.items()},
    }
    return result, min(cosines.values()) > 0.999


def _ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Of the two sides' turns, one by one."""
    ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
    return {
        "median": round(statistics.median(ratios), 2),
        "least": round(min(ratios), 2),
        "most": round(max(ratios), 2),
    }


def _side(name: str, batch: int, options: argparse.Namespace) -> Side:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.empty(2 * batch, options.dim)
    vectors[:batch].normal_(generator=generator)
    vectors[batch:].normal_(generator=generator).add_(vectors[:batch], alpha=0.3)  # pairs are alike
    return _ours(vectors) if name == "ours" else _theirs(vectors, name, options.mini_batch)


def _ours(vectors: Tensor) -> Side:
    pairs = len(vectors) // 2
    anchors, positives = (text_keys([f"{side} {row}" for row in range(pairs)]) for side in ("query", "document"))
    places = torch.arange(2 * pairs)
    no_ids = torch.full((pairs,), NO_ID)
    rows = PairInputs(places[:pairs], places[pairs:], anchors, positives, anchors, no_ids)
    config, temperature = LossConfig(temperature=TEMPERATURE), Temperature(TEMPERATURE, learned=False)

    def run() -> tuple[float, list[Tensor]]:
        found = infonce(vectors, rows, config, temperature)
        return float(found.loss), [found.embedding_gradient]

    return run


def _theirs(vectors: Tensor, name: str, mini_batch: int) -> Side:
    from sentence_transformers.sentence_transformer.losses import (
        CachedMultipleNegativesRankingLoss,
        MultipleNegativesRankingLoss,
    )

    model, pairs = torch.nn.Sequential(torch.nn.Identity()), len(vectors) // 2
    plain = MultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE)
    cached = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=mini_batch)

    def run() -> tuple[float, list[Tensor]]:
        size = mini_batch if name == "cached" else pairs
        columns = [
            [part.detach().requires_grad_() for part in torch.split(side, size)] for side in torch.split(vectors, pairs)
        ]
        if name == "cached":
            loss = cached.calculate_loss(columns, with_backward=True)
        else:
            loss = plain.compute_loss_from_embeddings([column[0] for column in columns], None)
            loss.backward()
        return float(loss.detach()), [part.grad for column in columns for part in column if part.grad is not None]

    return run


def _memory_of(name: str, batch: int, options: argparse.Namespace) -> int:
    command = [sys.executable, __file__, "--memory-of", name, "--batch", str(batch), "--dim", str(options.dim)]
    found = subprocess.run(
        [*command, "--mini-batch", str(options.mini_batch)], capture_output=True, text=True, check=True
    )
    return int(json.loads(found.stdout.splitlines()[-1])["bytes"])


def _peak_growth(options: argparse.Namespace) -> int:
    """Bytes by which the largest resident size exceeds that before, once the libraries have been used."""
    _side(options.memory_of, 64, options)()
    side = _side(options.memory_of, options.batch[0], options)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before = _status("VmRSS")
    side()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _say(value: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
