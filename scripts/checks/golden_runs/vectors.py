"""A run of each tree, exported, and its vectors as sentence-transformers and `dec2vec encode` read them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from golden_runs.cases import Case, Facts, Finding, Side
from golden_runs.steps import COMMON
from golden_runs.trees import THREADS, Value, run

RUN: dict[str, Value] = {
    **COMMON,
    "model.prompt": "instruct",
    "model.pooling": "mean",
    "optim.steps": 3,
    "eval.dev": "dev.jsonl",
    "eval.fit_sentences": 300,
    "export.model": "true",
    "export.whiten": "true",
}
READ_FOLDERS = """
import sys
import numpy
from sentence_transformers import SentenceTransformer
texts = open(sys.argv[1], encoding="utf-8").read().splitlines()
for folder, output in zip(sys.argv[2::2], sys.argv[3::2]):
    model = SentenceTransformer(folder, device="cpu")
    sides = [model.encode_query(texts, batch_size=8), model.encode_document(texts, batch_size=8)]
    numpy.save(output, numpy.concatenate(sides))
"""


def cases() -> list[Case]:
    """One run, exported with its adapter and merged."""
    return [Case("vectors", _export, partial(compare_vectors, "vectors"))]


def _export(side: Side, folder: Path) -> Facts:
    trained, merged = folder / "run", folder / "merged"
    side.tree.verb("train", {**RUN, "output_dir": str(trained)}, side.inputs)
    side.tree.verb("export", {"run": str(trained), "to": str(merged), "merge": "true"}, side.inputs)
    exported = {"exported": trained / "model", "merged": merged}
    return {
        "vectors": {
            **by_sentence_transformers(side, folder, exported),
            **by_encode(side, folder, {**exported, "run": trained}),
        },
        "files": {name: files_of(path) for name, path in exported.items()},
    }


def by_sentence_transformers(side: Side, folder: Path, exported: Mapping[str, Path]) -> dict[str, str]:
    """Vectors of the texts on both sides of the prompt, without any code of this project."""
    outputs = {f"sentence-transformers, {name}": folder / f"st-{name}.npy" for name in exported}
    pairs = [str(path) for both in zip(exported.values(), outputs.values(), strict=True) for path in both]
    command = [sys.executable, "-c", READ_FOLDERS, str(side.inputs / "texts.txt"), *pairs]
    run(command, side.inputs, dict.fromkeys(THREADS, "1"))
    return {name: str(path) for name, path in outputs.items()}


def by_encode(side: Side, folder: Path, models: Mapping[str, Path]) -> dict[str, str]:
    """Vectors that `dec2vec encode` writes."""
    outputs = {f"dec2vec encode, {name}": folder / f"encode-{name}.npy" for name in models}
    for model, output in zip(models.values(), outputs.values(), strict=True):
        files = {"model": str(model), "input": "texts.txt", "output": str(output)}
        side.tree.verb("encode", {**files, "side": "document", "device": "cpu"}, side.inputs)
    return {name: str(path) for name, path in outputs.items()}


def files_of(folder: Path) -> list[str]:
    """Relative paths of all files."""
    return sorted(os.path.relpath(path, folder) for path in folder.rglob("*") if path.is_file())


def compare_vectors(name: str, old: Facts, new: Facts) -> Iterator[Finding]:
    """Every array bit for bit, and no exported file missing."""
    for key, path in old["vectors"].items():
        before, after = np.load(path), np.load(new["vectors"][key])
        yield Finding(f"{name} {key}", f"{before.shape[0]} x {before.shape[1]}", _apart(before, after))
    for key, files in old.get("files", {}).items():
        missing, added = sorted(set(files) - set(new["files"][key])), sorted(set(new["files"][key]) - set(files))
        figure = f"{len(files)} files" + (f", new: {', '.join(added)}" if added else "")
        yield Finding(f"{name} files, {key}", figure, f"missing: {', '.join(missing)}" if missing else "")


def _apart(
    old: np.ndarray[tuple[int, ...], np.dtype[np.float32]], new: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> str:
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"{old.dtype} {old.shape} is now {new.dtype} {new.shape}"
    return "" if old.tobytes() == new.tobytes() else f"largest difference {float(np.abs(old - new).max())!r}"
