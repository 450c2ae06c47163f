"""Runs and exports of the old tree in the hands of the present one: resumed, evaluated, exported, encoded, imported.

The old tree trains one run to its end. A copy without what came after the middle checkpoint is the same run as a kill
would have left it. Both trees go on from such copies, and must end with the adapter of the run that nothing stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from golden_runs.cases import Case, Facts, Finding, Side, lines_differ, metrics, read_jsonl, weights_digest
from golden_runs.reports import compare_reports
from golden_runs.steps import COMMON
from golden_runs.trees import Value
from golden_runs.vectors import by_encode, by_sentence_transformers, compare_vectors, files_of

STEPS, STOPPED_AT = 8, 4
RUN: dict[str, Value] = {
    **COMMON,
    "model.prompt": "instruct",
    "lora.dropout": 0.1,
    "lora.fast": "false",
    "loss.learn_temperature": "true",
    "data.1.path": "train.jsonl",
    "data.1.limit": 200,
    "batch.sources": "one",
    "distributed.check_every": 50,
    "optim.steps": STEPS,
    "checkpoint.every": STOPPED_AT,
    "checkpoint.keep": 2,
    "eval.dev": "dev.jsonl",
    "eval.every": STOPPED_AT,
    "export.model": "true",
}
"""With values other than the defaults for options that are renamed."""
FULL: dict[str, Value] = {**COMMON, "lora.method": "full", "optim.steps": 2, "export.model": "true"}
EVALUATION: dict[str, Value] = {
    "model.name_or_path": "decoder",
    "model.max_length": 64,
    "model.autocast": "off",
    "model.device": "cpu",
    "dev": "dev.jsonl",
    "tests": ["test.jsonl"],
    "fit": ["train.jsonl"],
    "fit_sentences": 300,
    "systems.prompts": ["bare", "instruct"],
    "systems.poolings": ["last", "mean"],
    "systems.post": ["raw", "whiten", "abtt"],
    "pairs.0.name": "pairs",
    "pairs.0.test": "test.jsonl",
    "pairs.0.dev": "dev.jsonl",
    "pairs.0.label": "score",
    "pairs.0.positive_from": 3,
    "topics.0.name": "topics",
    "topics.0.test": "labelled-test.jsonl",
    "topics.0.train": "labelled.jsonl",
    "topics.0.method": "knn",
    "clustering.0.name": "clusters",
    "clustering.0.test": "labelled-test.jsonl",
    "clustering.0.seeds": 2,
    "retrieval.0.path": "collection",
    "isotropy.0.name": "isotropy",
    "isotropy.0.path": "test.jsonl",
    "baselines": ["tfidf", "jaccard"],
    "bootstrap": 200,
}
CARD = """
import sys
import numpy
from dec2vec.encoder import Encoder
from dec2vec.model_config import ModelConfig
encoder = Encoder.load(ModelConfig(name_or_path=sys.argv[1]))
texts = open(sys.argv[2], encoding="utf-8").read().splitlines()
numpy.save(sys.argv[3], numpy.concatenate([encoder.encode(texts, side=side) for side in ("query", "document")]))
"""
"""The lines of a published model card."""


def cases() -> list[Case]:
    """One for each thing that users do with an old run."""
    made: dict[str, tuple[Callable[[Side, Path], Facts], Callable[[str, Facts, Facts], Iterator[Finding]]]] = {
        "resumed by the same command": (_resume_by_command, _compare_resumed),
        "resumed by its config.yaml": (_resume_by_config, _compare_resumed),
        "evaluated": (_evaluate, _compare_evaluated),
        "exported": (_export, compare_vectors),
        "encoded": (_encode, compare_vectors),
        "imported by a model card": (_card, compare_vectors),
    }
    return [
        Case(f"old-runs/{name.replace(' ', '-')}", produce, partial(compare, f"old run {name}:"))
        for name, (produce, compare) in made.items()
    ]


def old_run(side: Side, name: str, options: dict[str, Value]) -> Path:
    """A run of the old tree, made once."""
    folder = side.old / "made" / name
    if side.is_old and not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        side.tree.verb("train", {**options, "output_dir": str(folder)}, side.inputs)
        (folder / "made").touch()
    return folder


def _resume_by_command(side: Side, folder: Path) -> Facts:
    return _resume(side, folder, side.tree.arguments("train", {**RUN, "output_dir": str(folder / "run")}))


def _resume_by_config(side: Side, folder: Path) -> Facts:
    run = folder / "run"
    return _resume(side, folder, [str(run / "config.yaml"), "--output_dir", str(run)])


def _resume(side: Side, folder: Path, arguments: Sequence[str]) -> Facts:
    """How many steps were taken, what they ended with, and where the run ended that nothing stopped."""
    whole, run, hashes = old_run(side, "lora", RUN), folder / "run", folder / "hashes"
    _copy_stopped(whole, run)
    hashes.mkdir()
    side.tree.run(["dec2vec.cli", "train", *arguments], side.inputs, environment={"GOLDEN_HASHES": str(hashes)})
    return {
        "steps": len(read_jsonl(hashes / "rank-0.jsonl")),
        "metrics": metrics(run),
        "weights": weights_digest(run / "adapter" / "adapter_model.safetensors"),
        "uninterrupted metrics": metrics(whole),
        "uninterrupted weights": weights_digest(whole / "adapter" / "adapter_model.safetensors"),
    }


def _copy_stopped(run: Path, copy: Path) -> None:
    """The run as a kill after the middle checkpoint would have left it."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / f"step-{STEPS:06d}")
    for exported in ("adapter", "model"):
        shutil.rmtree(copy / exported)


def _compare_resumed(name: str, old: Facts, new: Facts) -> Iterator[Finding]:
    """Against the run that nothing stopped: its metrics and its adapter, after the steps that were left."""
    left, taken = STEPS - STOPPED_AT, new["steps"]
    yield Finding(f"{name} steps", f"{left} of {STEPS}", "" if taken == left else f"{taken} steps instead of {left}")
    lines = old["uninterrupted metrics"]
    yield Finding(f"{name} metrics", f"{len(lines)} lines", lines_differ("line", lines, new["metrics"]))
    expected, found = old["uninterrupted weights"][:12], new["weights"][:12]
    differ = "" if old["uninterrupted weights"] == new["weights"] else f"sha256 {expected} is now {found}"
    yield Finding(f"{name} adapter", f"sha256 {expected}", differ)


def _evaluate(side: Side, folder: Path) -> Facts:
    tuned = [str(old_run(side, "lora", RUN)), str(old_run(side, "full", FULL))]
    side.tree.verb("eval", {**EVALUATION, "tuned": tuned, "output_dir": str(folder)}, side.inputs)
    found: Facts = json.loads((folder / "report" / "report.json").read_text(encoding="utf-8"))
    return found


def _compare_evaluated(name: str, old: Facts, new: Facts) -> Iterator[Finding]:
    yield from compare_reports(f"{name} report.json", old, new)


def _export(side: Side, folder: Path) -> Facts:
    """The old run once more as a folder, made by this tree."""
    exported = folder / "exported"
    side.tree.verb("export", {"run": str(old_run(side, "lora", RUN)), "to": str(exported)}, side.inputs)
    vectors = by_sentence_transformers(side, folder, {"exported": exported})
    return {"vectors": vectors, "files": {"exported": files_of(exported)}}


def _encode(side: Side, folder: Path) -> Facts:
    """Exports and run folders as the old tree wrote them."""
    lora, full = old_run(side, "lora", RUN), old_run(side, "full", FULL)
    models = {"run": lora, "exported": lora / "model", "adapter": lora / "adapter", "full": full / "model"}
    return {"vectors": by_encode(side, folder, models)}


def _card(side: Side, folder: Path) -> Facts:
    card, output = folder / "card.py", folder / "card.npy"
    card.write_text(CARD, encoding="utf-8")
    model, texts = old_run(side, "lora", RUN) / "model", side.inputs / "texts.txt"
    side.tree.run([str(card), str(model), str(texts), str(output)], side.inputs)
    assert np.load(output).shape[0] == 120
    return {"vectors": {"vectors": str(output)}}
