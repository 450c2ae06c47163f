"""The numbers on disk: inf and nan are found before they spread through a forward pass. One tensor in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from dec2vec.checks.finding import Finding
from dec2vec.checks.place import Place

WEIGHTS = "weights"


def check_weights(place: Place) -> Finding:
    """Every tensor of the model's own files is finite."""
    count = 0
    for file in _files(place):
        try:
            for name, tensor in _tensors(file):
                count += 1
                if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
                    what = f"{file.name}: {name} holds nan or inf"
                    return Finding(WEIGHTS, "fail", what, "take an earlier checkpoint: training had gone wrong by then")
        except (SafetensorError, OSError) as error:
            what = f"{file}: can't be read ({error})"
            return Finding(WEIGHTS, "fail", what, "copy the file again, or export the run again")
    if not count:
        fix = "save it as safetensors: pickles can run code, and dec2vec does not read them"
        return Finding(WEIGHTS, "warn", f"no .safetensors in {place.folder}", fix)
    return Finding(WEIGHTS, "pass", f"{count} tensors, all finite")


def _files(place: Place) -> list[Path]:
    """Those of the model and of the modules in its subfolders, each once."""
    found = [path for folder in place.folders for path in sorted(folder.glob("**/*.safetensors"))]
    return list(dict.fromkeys(path.resolve() for path in found))


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118  # not a dict
            yield name, opened.get_tensor(name)
