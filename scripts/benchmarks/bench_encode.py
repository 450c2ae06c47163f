"""Time `encode` of our encoder and of sentence-transformers on the same texts and prompts; prints JSON.

    python scripts/benchmarks/bench_encode.py --prompt knowledge_enhancement --model llama-60m --peer st-best

Prompts: bare, prompteol, knowledge_enhancement, or a template with {text}. Both sides have the same weights and strings
and read the last token of the last layer, so that their vectors can be compared: the run is void (exit code 1) where
the smallest cosine between a text's two vectors is below 0.999. Peers: st (batches of 32, its default), st-best (the
fastest of its batch sizes 16 to 256), none. The sides take turns in one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.work import Work


def main() -> int:
    """Read the options, make model and texts, and measure."""
    options = parse(sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        result = run(options, Path(folder))
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 1 if result["void"] else 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="knowledge_enhancement")
    parser.add_argument("--model", default="llama-60m", help="a folder, llama-8m, llama-60m or qwen3-600m-shape")
    parser.add_argument("--case", choices=["short", "long"], default="short", help="lengths of the texts")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--peer", choices=["st", "st-best", "none"], default="st-best")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch chooses")
    parser.add_argument("--set", nargs="*", default=[], metavar="batch_tokens=N", help="argument of our encode")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The whole bench."""
    import torch
    from bench.encoders import SIZES, load
    from bench.machine import bfloat16_units, description
    from bench.models import model_folder
    from bench.texts import make_rows
    from transformers import AutoTokenizer

    folder = model_folder(options.model, scratch / "model")
    rows = make_rows(options.case, (options.texts + 1) // 2, AutoTokenizer.from_pretrained(folder))
    texts = [text for row in rows for text in row.values()][: options.texts]
    precision = options.precision if options.precision != "auto" else ("bf16" if bfloat16_units() else "fp32")
    work = Work(str(folder), "", options.prompt, 0, precision, options.threads or torch.get_num_threads())
    sides = {"ours": load("ours", replace(work, options=tuple(options.set)))}
    size = "32"
    if options.peer != "none":
        peer = load("peer", work)
        if options.peer == "st-best":
            times = {size: _seconds(replace(peer, work=replace(work, options=(size,))), texts) for size in SIZES}
            size = min(times, key=times.__getitem__)
        sides["peer"] = replace(peer, work=replace(work, options=(size,)))
    machine = description()
    cosines, seconds, cpu = measure(sides, texts, options.repeats)
    return {
        **{name: vars(options)[name] for name in ("prompt", "model", "case", "texts", "set")},
        "precision": precision,
        "machine": machine,
        "against": options.peer,
        "peer_batch_size": int(size),
        "least_cosine": round(cosines, 6),
        "void": cosines < 0.999,
        **{
            name: {
                "texts_per_second": round(median(len(texts) / time for time in seconds[name]), 1),
                "seconds": [round(time, 3) for time in seconds[name]],
                "cpu_seconds": [round(time, 3) for time in cpu[name]],
            }
            for name in sides
        },
        **_ratios(seconds, cpu),
    }


def measure(
    sides: dict[str, Any], texts: list[str], repeats: int
) -> tuple[float, dict[str, list[float]], dict[str, list[float]]]:
    """The least cosine between both sides' vectors of a text, and the times of both, taken in turn."""
    from bench.machine import Clock

    vectors = [side.encode(texts) for side in sides.values()]  # to warm up as well
    least = float((vectors[0] * vectors[-1]).sum(1).min())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        for name in sorted(sides, reverse=bool(number % 2)):
            clock = Clock()
            sides[name].encode(texts)
            times = clock.read()
            seconds[name].append(times["seconds"])
            cpu[name].append(times["cpu_seconds"])
    return least, seconds, cpu


def _seconds(side: Any, texts: list[str]) -> float:
    from bench.machine import Clock

    side.encode(texts[:64])
    clock = Clock()
    side.encode(texts)
    return clock.read()["seconds"]


def _ratios(seconds: dict[str, list[float]], cpu: dict[str, list[float]]) -> dict[str, Any]:
    from bench.report import ratio

    if "peer" not in seconds:
        return {}
    return {
        f"ratio_{name}": ratio(times["ours"], times["peer"])
        for name, times in (("seconds", seconds), ("cpu_seconds", cpu))
    }


if __name__ == "__main__":
    sys.exit(main())
