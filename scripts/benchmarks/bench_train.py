"""Time whole optimiser steps of our trainer and of sentence-transformers on the same work; prints JSON.

    python scripts/benchmarks/bench_train.py --case short --model llama-60m --batch 256 --peer st --repeats 5

Cases: short (NLI-like pairs), long (lognormal, mean 60 tokens, up to 512), prompt (short behind 40 tokens of
instruction), triplets (short with a hard negative), 2x30 and 2x250 (both texts of that many tokens). Peers: st
(CachedMultipleNegativesRankingLoss with its default mini-batch of 32), st-best (the fastest of its plain and cached
losses that fits the memory), self (our own trainer with the options of --peer-set), none. Both sides have the same
weights, adapters, texts, batches, temperature and allocator settings, and step in turn, each in a process of its own; a
matrix product is timed before each pair of steps.

Nothing is timed unless both sides read the same token ids of every batch. The run is void (exit code 1) if the
gradients of the first batch, compared with sentence-transformers' in float32, are further away on our side than 1.1
times the distance of the peer's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.losses import DEFAULT, LOSSES
from bench.processes import Local, Worker, serve
from bench.texts import CASES, make_prompt, make_rows
from bench.work import Work

Start = Callable[[str, Work, bool], "Local | Worker"]


def main() -> int:
    """Read the options, make models and texts, and measure."""
    options = parse(sys.argv[1:])
    if options.worker:
        serve(options.worker, Work.loads(options.work), limited=options.limited)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)

        def start(kind: str, work: Work, limited: bool) -> Worker:
            return Worker(kind, work, __file__, scratch, limited=limited)

        result = run(options, scratch, start)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 1 if result["void"] else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), default="short")
    parser.add_argument("--model", default="llama-60m", help="a folder, llama-8m, llama-60m or qwen3-600m-shape")
    parser.add_argument("--batch", type=int, default=256, help="pairs in a step")
    parser.add_argument("--peer", choices=["st", "st-best", "self", "none"], default="st")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES, help="what st-best chooses from")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--base", choices=["float32", "bfloat16"], default="float32", help="dtype of the base weights")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch chooses")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="options of our training run")
    parser.add_argument("--peer-set", nargs="*", default=[], metavar="NAME=VALUE", help="the same for --peer self")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--limited", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, scratch: Path, start: Start) -> dict[str, Any]:
    """The whole bench; `start` makes a side."""
    import torch
    from bench.machine import bfloat16_units, description
    from bench.models import matrix_weights, model_folder
    from transformers import AutoModel, AutoTokenizer

    folder = model_folder(options.model, scratch / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = make_rows(options.case, (options.repeats + 1) * options.batch, tokenizer)
    prompt = make_prompt(options.case, tokenizer)
    Work.write_rows(scratch / "rows.jsonl", rows)
    precision = options.precision if options.precision != "auto" else ("bf16" if bfloat16_units() else "fp32")
    threads = options.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    work = Work(str(folder), str(scratch / "rows.jsonl"), prompt, options.batch, precision, threads, options.base)
    machine = description()
    weights = matrix_weights(AutoModel.from_pretrained(folder))
    tokenizer_lengths = tokenizer([prompt + text for row in rows for text in row.values()], add_special_tokens=False)
    counts = iter(len(ids) + 1 for ids in tokenizer_lengths.input_ids)  # and EOS
    lengths = [[next(counts) for _ in row] for row in rows]

    ours = replace(work, options=tuple(options.set))
    steps, found = measure(options, ours, _peer(options, work, start), start)
    return _result(options, machine, steps, found, lengths, weights, precision)


def _peer(options: argparse.Namespace, work: Work, start: Start) -> tuple[str, Work] | None:
    if options.peer == "none":
        return None
    if options.peer == "self":
        return "ours", replace(work, options=tuple(options.peer_set))
    if options.peer == "st":
        return "peer", replace(work, options=(DEFAULT,))
    times = {loss: _probe(replace(work, options=(loss,)), start) for loss in options.losses}
    return "peer", replace(work, options=(min(times, key=times.__getitem__),))


def _probe(work: Work, start: Start) -> float:
    """Seconds of a step after one to warm up; infinite where the memory is not enough."""
    side = start("peer", work, True)
    try:
        return min(side.step(number)["seconds"] for number in range(2))
    except MemoryError:
        return float("inf")
    finally:
        side.close()


def measure(
    options: argparse.Namespace, ours: Work, peer: tuple[str, Work] | None, start: Start
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Steps of both sides in turn: batch 0 for the gradients and to warm up, the others timed."""
    from bench.machine import matmul_peak

    sides = {"ours": start("ours", ours, False)}
    if peer is not None:
        sides["peer"] = start(*peer, False)
    _check_token_ids(sides, options.repeats)
    gradients = {name: side.first_gradients(0) for name, side in sides.items()}
    found: dict[str, Any] = {"options": None, "void": False}
    if peer is not None:
        found = {"options": peer[1].options, **_compared(gradients, ours, start)}
    steps: dict[str, Any] = {name: [] for name in sides}
    found["peaks"] = []
    for number in range(1, options.repeats + 1):
        found["peaks"].append(matmul_peak(ours.precision))
        for name in sorted(sides, reverse=bool(number % 2)):
            steps[name].append(sides[name].step(number))
    for side in sides.values():
        side.close()
    return steps, found


def _check_token_ids(sides: dict[str, Any], repeats: int) -> None:
    """End the run where the sides would be timed on other work, as with a chat template on one side alone."""
    for number in range(repeats + 1) if len(sides) > 1 else ():
        ours, theirs = (sides[name].token_ids(number) for name in ("ours", "peer"))
        for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            if mine != other:
                raise SystemExit(f"text {place} of batch {number} has other token ids: ours {mine}, the peer's {other}")


def _compared(gradients: dict[str, Any], ours: Work, start: Start) -> dict[str, Any]:
    """With the gradients of sentence-transformers in float32, in a process that ends before anything is timed."""
    from bench.report import agreement

    reference = start("peer", replace(ours, precision="fp32", base="float32", options=(DEFAULT,)), False)
    float32 = reference.first_gradients(0)
    reference.close()
    return agreement(gradients, float32)


def _result(
    options: argparse.Namespace,
    machine: dict[str, Any],
    steps: dict[str, Any],
    found: dict[str, Any],
    lengths: list[list[int]],
    weights: int,
    precision: str,
) -> dict[str, Any]:
    from bench.report import ratio, speed

    counts = [sum(map(sum, lengths[start : start + options.batch])) for start in range(0, len(lengths), options.batch)]
    flops = 4.0 * weights  # forward, and backward to the inputs: the weights themselves are frozen
    result: dict[str, Any] = {
        "case": options.case,
        "model": options.model,
        "batch": options.batch,
        "precision": precision,
        "base": options.base,
        "machine": machine,
        "tokens_per_text": round(sum(counts) / sum(map(len, lengths)), 2),
        "set": options.set,
        "against": options.peer,
        "peer_options": found["options"],
        **{name: found[name] for name in ("gradient_cosine", "float32_cosine", "void") if name in found},
        "matmul_peak_gflops": [round(peak / 1e9, 1) for peak in found["peaks"]],
        **{side: speed(steps[side], options.batch, counts[1:], flops, found["peaks"]) for side in steps},
    }
    if "peer" in steps:
        for name in ("seconds", "cpu_seconds"):
            times = [[step[name] for step in steps[side]] for side in ("ours", "peer")]
            result[f"ratio_{name}"] = ratio(*times)
        result["memory_ratio"] = round(result["ours"]["peak_memory_mib"] / result["peer"]["peak_memory_mib"], 3)
    return result


if __name__ == "__main__":
    sys.exit(main())
