"""Encode many generated texts with workers that are killed again and again, and compare with an undisturbed run.

    python scripts/checks/check_million.py --rows 1000000 --kills 6 --folder runs/check_million

Two processes under torchrun encode into shards with a tiny random decoder. The disturbed encode gets a SIGKILL at
random moments, by turns for one worker and for the whole group, and is started again with the same command. Then rows
are counted, all bytes are hashed, and a sample of rows is embedded anew, one process, no shards. Exit code 0 when the
bytes are those of the undisturbed run and the sample agrees to 1e-5.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dec2vec.corpus.vector_files import open_vectors

WORLD = 2
SAMPLE = 500
TOKENIZER = Path(__file__).resolve().parents[2] / "dec2vec" / "demo" / "decoder"
SUBJECTS = "man woman child dog cat horse bird farmer teacher doctor singer pilot"
VERBS = "sees feeds paints follows carries visits finds draws thanks calls remembers misses"
OBJECTS = "house river apple letter guitar garden ladder mountain lamp bridge boat window"


@dataclass(frozen=True)
class Job:
    """One folder of shards and the command that fills it."""

    output: Path
    command: Sequence[str]

    @property
    def done(self) -> int:
        """Shards with a note."""
        return len(list(self.output.glob("shard-*.json")))

    def start(self) -> subprocess.Popen[bytes]:
        """In a process group of its own."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        log = (self.output.parent / f"{self.output.name}.log").open("ab")
        return subprocess.Popen(self.command, stderr=log, env=environment, start_new_session=True)


def generated(rows: int) -> Iterator[str]:
    """Short texts, no two alike."""
    numbers = itertools.count()
    words = itertools.cycle(itertools.product(SUBJECTS.split(), VERBS.split(), OBJECTS.split()))
    for number, (subject, verb, thing) in zip(numbers, words, strict=False):
        if number >= rows:
            return
        yield f"A {subject} {verb} the {thing} of {number}."


def tiny_decoder(folder: Path) -> Path:
    """One layer, width 32, random weights, the demo's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 8, "dtype": "float32"}
    model = AutoModel.from_config(AutoConfig.from_pretrained(TOKENIZER, **small))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return folder


def job(name: str, options: argparse.Namespace) -> Job:
    """`torchrun --nproc_per_node 2 -m dec2vec encode ...`."""
    folder: Path = options.folder
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(WORLD)]
    encode = ["-m", "dec2vec", "encode", "--model", str(folder / "decoder"), "--input", str(folder / "texts.txt")]
    sharded = ["--output", str(folder / name), "--shard_rows", str(options.shard_rows), "--device", "cpu"]
    return Job(folder / name, [sys.executable, *launcher, *encode, *sharded])


def disturbed(work: Job, shards: int, kills: int, seed: int) -> tuple[int, int]:
    """Kill and start again until the encode ends by itself; (kills of one worker, kills of all)."""
    chance, counts = random.Random(seed), [0, 0]
    for turn in itertools.count():
        process = work.start()
        if turn < kills:
            fair = work.done + max(1, (shards - work.done) // (kills - turn + 1))
            _wait(process, work, fair, chance.uniform(0.0, 1.0))
            counts[turn % 2] += _kill(process, everyone=bool(turn % 2))
        if process.wait() == 0 and (work.output / "index.json").is_file():
            return counts[0], counts[1]
        if turn > kills + 3:
            raise SystemExit(f"the encode does not end: see {work.output}.log")
    raise AssertionError("unreachable")


def _wait(process: subprocess.Popen[bytes], work: Job, shards: int, more: float) -> None:
    while process.poll() is None and work.done < shards:
        time.sleep(0.02)
    time.sleep(more)


def _kill(process: subprocess.Popen[bytes], *, everyone: bool) -> int:
    """One worker, which torchrun answers by ending the other, or launcher and workers at once."""
    if process.poll() is not None:
        return 0
    workers = _children(process.pid)
    if everyone or not workers:
        os.killpg(process.pid, signal.SIGKILL)
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)  # torchrun gives each a session of its own
        return 1
    with contextlib.suppress(ProcessLookupError):
        os.kill(workers[-1], signal.SIGKILL)
        return 1
    return 0


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return sorted(found)


def digest(folder: Path) -> tuple[int, str]:
    """Rows, and sha256 over all vectors in order."""
    vectors, hashed = open_vectors(folder), hashlib.sha256()
    rows = 0
    for first, block in vectors.blocks():
        if first != rows:
            raise SystemExit(f"{folder}: row {first} follows row {rows - 1}")
        hashed.update(block.tobytes())
        rows += len(block)
    return rows, hashed.hexdigest()


def sample_difference(options: argparse.Namespace, folder: Path) -> float:
    """Largest difference to the same rows embedded alone, in this process."""
    from dec2vec import Encoder, ModelConfig

    rows = np.sort(np.random.default_rng(0).permutation(options.rows)[:SAMPLE]).astype(np.int64)
    wanted = set(rows.tolist())
    texts = [text for number, text in enumerate(generated(options.rows)) if number in wanted]
    encoder = Encoder.load(ModelConfig(name_or_path=str(options.folder / "decoder"), device="cpu"))
    return float(np.abs(encoder.encode(texts, progress=False) - open_vectors(folder).take(rows)).max())


def main(argv: Sequence[str]) -> int:
    """Both encodes, and the table."""
    options = parse(argv)
    folder, shards = options.folder, -(-options.rows // options.shard_rows)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "texts.txt").open("w", encoding="utf-8") as file:
        file.writelines(f"{text}\n" for text in generated(options.rows))
    tiny_decoder(folder / "decoder")
    started = time.monotonic()
    calm = job("calm", options)
    if calm.start().wait() != 0:
        raise SystemExit(f"the undisturbed encode failed: see {calm.output}.log")
    calm_seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    started = time.monotonic()
    killed = job("killed", options)
    one, all_of_them = disturbed(killed, shards, options.kills, options.seed)
    killed_seconds = time.monotonic() - started
    found, expected = digest(killed.output), digest(calm.output)
    same = found == expected and found[0] == options.rows and _bytes(killed.output) == _bytes(calm.output)
    apart = sample_difference(options, killed.output)
    size = (folder / "texts.txt").stat().st_size / 2**20
    lines = [
        ("rows", f"{found[0]:,} of {options.rows:,} in {shards} shards"),
        ("undisturbed", f"{calm_seconds:.0f} s with the start; then {_rate(calm):,.0f} texts per second"),
        ("killed", f"{killed_seconds:.0f} s; SIGKILL to one worker {one} times, to all {all_of_them} times"),
        ("vectors", f"sha256 {found[1][:16]} killed, {expected[1][:16]} undisturbed; all files equal: {same}"),
        ("sample", f"{SAMPLE} rows embedded anew differ by at most {apart:.1e}"),
        (
            "memory",
            f"largest process {peak:.0f} MiB; the input has {size:.0f}",
        ),
    ]
    sys.stdout.write("".join(f"{name:<12} {value}\n" for name, value in lines))
    return 0 if same and apart <= 1e-5 and one + all_of_them >= min(options.kills, shards - 1) else 1


def _rate(calm: Job) -> int:
    """Texts per second of all processes together, by what each says at its end."""
    said = (calm.output.parent / f"{calm.output.name}.log").read_text(encoding="utf-8", errors="replace")
    return sum(int(rate) for rate in re.findall(r"\((\d+) per second\)", said))


def _bytes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shard_rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/check_million"), help="emptied first")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
