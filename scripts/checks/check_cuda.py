"""What dec2vec does on a GPU: the parts of `scripts/checks/cuda`, each in a process of its own and with its own limit.

A part that fails or is cut off at its limit is reported, and the next one runs. The weights are random, of the shape of
Qwen3-0.6B, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "scripts/benchmarks/bench_train.py"
TOTAL_SECONDS = 470.0
"""All parts together; those that would begin later are left out, and said to be."""
TINY_PATIENCE = 4.0
"""How many times as long everything may take with tiny sizes, which run on machines of any speed."""
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
    """Run all parts, write results.json and table.md, and fail if a part did; parts that are cut off are only told."""
    options = parse()
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.wheels is not None:
            install(missing_wheels(options.wheels), Path(folder) / "site")
        model = make_model(Path(folder) / "model", tiny=options.tiny)
        patience = TINY_PATIENCE if options.tiny else 1.0
        for part in parts(model, tiny=options.tiny):
            left = patience * TOTAL_SECONDS - (time.monotonic() - started)
            results[part.name] = run(replace(part, seconds=patience * part.seconds), out, left)
            (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
            (out / "table.md").write_text(table(results), encoding="utf-8")
            sys.stdout.write(f"[{time.monotonic() - started:5.0f} s] {part.name}: {outcome(results[part.name])}\n")
    sys.stdout.write(table(results))
    sys.stdout.write("".join(f"{line}\n" for line in unfinished(results)))
    return int(any("failed" in result for result in results.values()))


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, table.md and the logs")
    parser.add_argument("--wheels", type=Path, help="folder of wheels, for what this Python lacks")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that it runs")
    return parser.parse_args()


def missing_wheels(folder: Path) -> list[Path]:
    """Those of packages that this Python has not, or in another version that is older."""
    found = []
    for wheel in sorted(folder.glob("*.whl")):
        name, version, *_ = wheel.name.split("-")
        try:
            here = importlib.metadata.version(name.replace("_", "-"))
        except importlib.metadata.PackageNotFoundError:
            here = ""
        if not here or _numbers(here) < _numbers(version):
            found.append(wheel)
    return found


def _numbers(version: str) -> list[int]:
    """The leading numbers of a version."""
    parts = version.split("+")[0].split(".")
    return [int(part) for part in parts if part.isdigit()]


def install(wheels: Sequence[Path], site: Path) -> None:
    """Unpack the wheels into a folder of their own, where this process and the parts look first. Without network."""
    sys.stdout.write(f"installed for this run: {', '.join(wheel.name for wheel in wheels) or 'nothing is missing'}\n")
    if not wheels:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--no-cache-dir", "--target", str(site), *map(str, wheels)], check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    sys.path.insert(0, str(site))


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
    """The result of a part; its output and its errors are kept, also those of one that is cut off."""
    limit = min(left, part.seconds)
    if left < 10:
        return {"left_out": "no time left"}
    stem = out / "".join(letter if letter.isalnum() else "-" for letter in part.name)
    output, errors = stem.with_suffix(".log"), stem.with_suffix(".errors.log")
    code = _code(part.command, output, errors, limit)
    if code is None:
        return {"cut_off": f"not finished after {limit:.0f} s"}
    said, complaints = output.read_text(encoding="utf-8").strip(), errors.read_text(encoding="utf-8").strip()
    if not part.is_json:
        last = said.splitlines()[-1] if said else ""
        return {"said": last} if code == 0 else {"failed": last or f"exit code {code}"}
    try:
        result: dict[str, Any] = json.loads(said)
    except json.JSONDecodeError:
        return {"failed": (complaints.splitlines() or [f"exit code {code}"])[-1][:200]}
    return result


def _code(command: Sequence[str], output: Path, errors: Path, limit: float) -> int | None:
    """The exit code; None if the time ran out. The processes that it has started are ended with it."""
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def unfinished(results: dict[str, Any]) -> list[str]:
    """A line about the parts that this machine had no time for."""
    names = [name for name, result in results.items() if "cut_off" in result or "left_out" in result]
    return [f"no time for {len(names)} of {len(results)} parts: {', '.join(names)}"] if names else []


def outcome(result: dict[str, Any]) -> str:
    """A part in a few words."""
    for name in ("failed", "cut_off", "left_out", "said"):
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
        elif result.keys() & {"failed", "cut_off", "left_out"}:
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
