"""What dec2vec does on a GPU: the parts of `scripts/checks/cuda`, each in a process of its own and with its own limit.

A part that fails or runs out of time is reported, and the next one runs. The weights are random, of the shape of
Qwen3-0.6B, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "scripts/benchmarks/bench_train.py"
TOTAL_SECONDS = 470.0
"""All parts together; those that would begin later are left out, and said to be."""
SHAPE = "qwen3-600m-shape"
SWITCHES: dict[str, tuple[str, ...]] = {
    "as it comes": (),
    "PEFT's passes": ("--set", "lora.fused=false"),
    "cuDNN attention allowed": ("--set", "model.attention=cudnn"),
    "no kept graphs": ("--set", "batch.graph_tokens=0"),
    "base in float32": ("--base", "float32"),
}
"""Beside the run without padding, which the peer is compared with. All with a base in bfloat16, as checkpoints have it,
unless it says otherwise; the peer's base is then in bfloat16 too."""

COLUMNS = (
    "case and switch",
    "pairs/s",
    "share of matmul peak",
    "peak memory, MiB",
    "peer, pairs/s",
    "ratio",
    "1 - cosine with float32: ours, peer",
)


@dataclass(frozen=True)
class Part:
    """A command, and the most seconds that it may take. Its output is a line or a document of JSON, if `is_json`."""

    name: str
    command: list[str]
    seconds: float
    is_json: bool = True


def main() -> int:
    """Run all parts, write results.json and table.md, and fail if a part did."""
    options = parse()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", tiny=options.tiny)
        for part in parts(model, tiny=options.tiny):
            left = TOTAL_SECONDS - (time.monotonic() - started)
            results[part.name] = run(part, out, left)
            (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
            sys.stdout.write(f"[{time.monotonic() - started:5.0f} s] {part.name}: {outcome(results[part.name])}\n")
    (out / "table.md").write_text(table(results), encoding="utf-8")
    sys.stdout.write(table(results))
    return int(any("failed" in result for result in results.values()))


def parse() -> argparse.Namespace:
    """The options of the command line. `--wheels` has been used by the script that calls this one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, table.md and the logs")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install beside this Python")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it runs")
    return parser.parse_args()


def make_model(folder: Path, *, tiny: bool) -> Path:
    """Made once, because drawing 600 million random weights takes longer than a part."""
    from bench.models import model_folder

    return model_folder("llama-tiny" if tiny else SHAPE, folder)


def parts(model: Path, *, tiny: bool) -> Iterator[Part]:
    """In the order of what matters: is it right, what does it need, how fast is it."""
    batch = "8" if tiny else "1024"
    python = sys.executable
    quiet = ["-q", "-W", "default", "-p", "no:cacheprovider"]
    yield Part("machine", [python, __file__.replace("check_cuda", "cuda_facts"), "machine"], 40)
    yield Part("tests", [python, "-m", "pytest", *quiet, str(ROOT / "tests/test_on_gpu.py")], 60, is_json=False)
    size = ["--tiny"] if tiny else []
    yield Part("gradients", [python, __file__.replace("check_cuda", "cuda_facts"), "gradients", *size], 90)
    yield Part("memory", [python, __file__.replace("check_cuda", "cuda_facts"), "memory", "--model", str(model)], 40)
    common = [python, str(BENCH), "--model", str(model), "--batch", batch, "--precision", "bf16"]
    unpadded = ["--base", "bfloat16", "--set", "batch.unpadded=true"]
    for case, repeats in (("2x30", "3"), ("2x250", "2")):
        place = [*common, "--case", case, "--repeats", repeats]
        yield Part(f"{case}: st", [*place, "--peer", "st", *unpadded], 120)
        if case == "2x30":
            losses = ["cached:32"] if tiny else ["cached:128", "tokens:16384"]
            yield Part(f"{case}: st-best", [*place, "--peer", "st-best", "--losses", *losses, *unpadded], 100)
        for name, switches in SWITCHES.items():
            yield Part(f"{case}: {name}", [*place, "--peer", "none", "--base", "bfloat16", *switches], 60)


def run(part: Part, out: Path, left: float) -> dict[str, Any]:
    """The result of a part; its output and errors are kept in a log."""
    if left < 10:
        return {"left_out": "no time left"}
    log = out / f"{''.join(letter if letter.isalnum() else '-' for letter in part.name)}.log"
    try:
        done = subprocess.run(
            part.command, capture_output=True, text=True, timeout=min(left, part.seconds), check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not finished after {min(left, part.seconds):.0f} s"}
    log.write_text(f"{' '.join(part.command)}\n{done.stdout}\n{done.stderr}", encoding="utf-8")
    if not part.is_json:
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
        return {"said": last} if done.returncode == 0 else {"failed": last or f"exit code {done.returncode}"}
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]}
    return result


def outcome(result: dict[str, Any]) -> str:
    """A part in a few words."""
    for name in ("failed", "left_out", "said"):
        if name in result:
            return f"{name.replace('_', ' ')}: {result[name]}"
    return "void" if result.get("void") else "done"


def table(results: dict[str, Any]) -> str:
    """Speed and memory of both sides, a row for each bench."""
    machine = {"device": "unknown device", "torch": "?", "commit": "?", **results.get("machine", {})}
    lines = [
        "{device}, torch {torch}, commit {commit}".format(**machine),
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|---|{'---:|' * (len(COLUMNS) - 1)}",
    ]
    for name, result in results.items():
        if "ours" in result:
            lines.append(_row(name, result))
        elif "failed" in result or "left_out" in result:
            lines.append(f"| {name} | {outcome(result)} | | | | | |")
    return "\n".join([*lines, ""])


def _row(name: str, result: dict[str, Any]) -> str:
    ours, peer = result["ours"], result.get("peer")
    cells = [name, f"{ours['pairs_per_second']}", f"{ours['flops_share_of_matmul_peak']}", f"{ours['peak_memory_mib']}"]
    if peer is None:
        return f"| {' | '.join([*cells, '', '', ''])} |"
    far = result["float32_cosine"]
    ratio = result["ratio_seconds"]
    shown = f"{ratio['median']} ({ratio['low']} to {ratio['high']}){' void' if result['void'] else ''}"
    distances = f"{1 - far['ours']:.1e}, {1 - far['peer']:.1e}"
    return f"| {' | '.join([*cells, str(peer['pairs_per_second']), shown, distances])} |"


if __name__ == "__main__":
    sys.exit(main())
