"""Facts about a GPU for `scripts/checks/cuda`, as JSON: the machine, gradients by each switch, and bytes of a graph.

python scripts/checks/cuda_facts.py machine
python scripts/checks/cuda_facts.py gradients [--tiny]
python scripts/checks/cuda_facts.py memory --model FOLDER
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

PACKAGES = ("transformers", "peft", "accelerate", "sentence-transformers")
EXACT = ("lora.fused=false", "batch.share_prefix=false")
"""The plain step, in float32: what the others are compared with."""
SWITCHES: dict[str, tuple[str, tuple[str, ...]]] = {
    "float32, as it comes": ("fp32", ()),
    "float32, embedded twice": ("fp32", ("batch.graph_tokens=0",)),
    "bfloat16 autocast": ("bf16", ()),
    "bfloat16 autocast, embedded twice": ("bf16", ("batch.graph_tokens=0",)),
    "bfloat16 autocast, PEFT's passes": ("bf16", ("lora.fused=false",)),
    "bfloat16 base": ("bf16", ("model.dtype=bfloat16",)),
    "bfloat16 base, PEFT's passes": ("bf16", ("model.dtype=bfloat16", "lora.fused=false")),
    "bfloat16 base, without padding": ("bf16", ("model.dtype=bfloat16", "batch.unpadded=true")),
    "bfloat16 base, cuDNN attention": ("bf16", ("model.dtype=bfloat16", "model.attention=cudnn")),
}


def main() -> None:
    """One of the facts, on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fact", choices=["machine", "gradients", "memory"])
    parser.add_argument("--model", type=Path, help="folder of a decoder, for memory")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        match options.fact:
            case "machine":
                found = machine()
            case "gradients":
                shape, batch = ("llama-tiny", 8) if options.tiny else ("llama-60m", 128)
                found = gradients(scratch, shape, batch)
            case _:
                found = memory(scratch, options.model)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Versions, the device and its free memory."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    facts: dict[str, Any] = {"torch": torch.__version__, "python": sys.version.split()[0], "device": "cpu"}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = None
    command = ["git", "rev-parse", "--short", "HEAD"]
    facts["commit"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    if accelerator is not None:
        free, total = torch.accelerator.get_memory_info(accelerator)
        facts |= {"device": torch.get_device_module(accelerator).get_device_name(), "free_gib": free / 2**30}
        facts["total_gib"] = total / 2**30
    return facts


def gradients(scratch: Path, shape: str, batch: int) -> dict[str, Any]:
    """1 - cosine of a step's gradients with those of the plain float32 step; whether a repeated step has its bits."""
    from bench.models import model_folder

    model = model_folder(shape, scratch / "model")
    found: dict[str, Any] = {}
    for case in ("short", "prompt"):
        exact = _gradients(scratch, model, case, batch, "fp32", EXACT)
        for name, (precision, options) in SWITCHES.items():
            made = _gradients(scratch, model, case, batch, precision, options)
            found[f"{case}: {name}"] = 1 - _cosine(made, exact)
        twice = [_gradients(scratch, model, case, batch, "bf16", ()) for _ in range(2)]
        found[f"{case}: the same bits twice"] = bool(np.array_equal(twice[0], twice[1]))
    return found


def memory(scratch: Path, model: Path) -> dict[str, Any]:
    """Bytes that autograd keeps for a token, by our estimate and by the allocator's peak."""
    from bench.ours import Ours

    from dec2vec.batching import Chunk
    from dec2vec.decoder.devices import peak_bytes
    from train.distributed.single import Single
    from train.gradcache.memory import graph_bytes

    found: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        side = Ours(_work(scratch, model, "short", 8, "bf16", (f"model.dtype={dtype}",)))
        device = side.encoder.device
        ids = torch.randint(2, 400, (64, 32), device=device)
        chunk = Chunk(torch.arange(64, device=device), ids, torch.full((64,), 32, device=device))
        found[f"{dtype}: estimate, bytes a token"] = graph_bytes(Single(side.encoder.embedder), chunk) / ids.numel()
        if device.type != "cpu":
            torch.accelerator.reset_peak_memory_stats()
            before = torch.accelerator.memory_allocated()
            side.encoder.embedder(ids, chunk.lengths)[0].sum().backward()
            found[f"{dtype}: allocator's peak, bytes a token"] = (peak_bytes(device) - before) / ids.numel()
    return found


def _work(scratch: Path, model: Path, case: str, batch: int, precision: str, options: tuple[str, ...]) -> Any:
    from bench.texts import make_prompt, make_rows
    from bench.work import Work
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    file = scratch / f"{case}.jsonl"
    if not file.exists():
        Work.write_rows(file, make_rows(case, 2 * batch, tokenizer))
    threads = torch.get_num_threads()
    return Work(str(model), str(file), make_prompt(case, tokenizer), batch, precision, threads, options=options)


def _gradients(
    scratch: Path, model: Path, case: str, batch: int, precision: str, options: tuple[str, ...]
) -> NDArray[np.float64]:
    from bench.ours import Ours

    side = Ours(_work(scratch, model, case, batch, precision, options))
    side.keeps = True
    side.step(0)
    named = sorted(side.gradients().items())
    return np.concatenate([gradient.ravel().astype(np.float64) for _, gradient in named])


def _cosine(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    return float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))


if __name__ == "__main__":
    main()
