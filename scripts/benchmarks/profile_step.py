"""Where the time of our training step goes: processor time by kind of operator and by operator, over the timed steps.

    OMP_NUM_THREADS=2 python scripts/benchmarks/profile_step.py --case short --model llama-8m --batch 256 --steps 3

Cases and models are those of bench_train.py. Times are self times of torch's operators in all threads, by
torch.profiler, and their shares of each other. The step itself is timed before, since the profiler slows it down; what
its processor time is beyond the operators' is Python and the tokenizer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from bench.texts import CASES, make_prompt, make_rows
from bench.work import Work

KINDS: Mapping[str, tuple[str, ...]] = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm", "linear", "_mkl_linear", "matmul"),
    "attention": ("scaled_dot_product", "_scaled_dot_product", "_softmax", "softmax"),
    "copies": ("copy_", "clone", "cat", "contiguous", "_to_copy", "stack", "fill_", "zero_", "empty", "resize_"),
    "gather and scatter": ("index", "embedding", "gather", "scatter", "take"),
    "optimizer": ("_fused_adamw", "_foreach"),
}
"""Beginnings of operator names (without `aten::`); a kind takes what no earlier one has."""


def main() -> int:
    """Make model and texts, warm up with one step, profile the others, and print both tables."""
    options = _parse()
    from bench.ours import Ours
    from torch._C._profiler import _ExperimentalConfig  # by default only this thread is profiled
    from torch.profiler import ProfilerActivity, profile

    with tempfile.TemporaryDirectory() as folder:
        side = Ours(_work(options, Path(folder)))
        side.step(0)
        started, used = time.perf_counter(), time.process_time()
        for number in range(1, options.steps + 1):
            side.step(number)
        wall, processor = (time.perf_counter() - started) / options.steps, (time.process_time() - used) / options.steps
        with profile(
            activities=[ProfilerActivity.CPU],
            acc_events=True,
            experimental_config=_ExperimentalConfig(profile_all_threads=True),
        ) as profiler:
            for number in range(1, options.steps + 1):
                side.step(number)
    found = {event.key: event.self_cpu_time_total / 1e6 / options.steps for event in profiler.key_averages()}
    sys.stdout.write(table(found, wall, processor, options.top))
    return 0


def kind_of(operator: str) -> str:
    """`aten::addmm` is a matrix product; what no kind names is elementwise or small."""
    name = operator.removeprefix("aten::")
    return next((kind for kind, starts in KINDS.items() if name.startswith(starts)), "elementwise and the rest")


def table(seconds: Mapping[str, float], wall: float, processor: float, top: int) -> str:
    """Both tables as text; `seconds` of a step by operator, `wall` and `processor` of the step without the profiler."""
    whole = sum(seconds.values())
    kinds: dict[str, float] = {}
    for name, value in seconds.items():
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + value
    operators = sorted(seconds, key=lambda name: -seconds[name])[:top]
    lines = [f"a step: {wall:.3f} s, {processor:.3f} s of processor time; its operators {whole:.3f} s"]
    lines += [_line(name, value, whole) for name, value in sorted(kinds.items(), key=lambda item: -item[1])]
    lines += ["", *(_line(name, seconds[name], whole) for name in operators)]
    return "\n".join(lines) + "\n"


def _line(name: str, seconds: float, whole: float) -> str:
    return f"{name:<40}{seconds:>8.3f} s{100 * seconds / whole:>7.1f} %"


def _work(options: argparse.Namespace, scratch: Path) -> Work:
    import torch
    from bench.machine import bfloat16_units
    from bench.models import model_folder
    from transformers import AutoTokenizer

    folder = model_folder(options.model, scratch / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = make_rows(options.case, (options.steps + 1) * options.batch, tokenizer)
    Work.write_rows(scratch / "rows.jsonl", rows)
    precision = options.precision
    if precision == "auto":
        precision = "bf16" if bfloat16_units() else "fp32"
    prompt = make_prompt(options.case, tokenizer)
    threads = torch.get_num_threads()
    return Work(
        str(folder), str(scratch / "rows.jsonl"), prompt, options.batch, precision, threads, options=tuple(options.set)
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), default="short")
    parser.add_argument("--model", default="llama-8m", help="a folder, llama-8m, llama-60m or qwen3-600m-shape")
    parser.add_argument("--batch", type=int, default=256, help="pairs in a step")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--top", type=int, default=12, help="operators in the second table")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="options of the training run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
