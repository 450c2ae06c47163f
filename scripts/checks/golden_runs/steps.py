"""Ten optimizer steps of several kinds of training: losses, gradients and weights, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from golden_runs.cases import Case, Facts, Finding, Side, lines_differ, metrics, read_jsonl, weights_digest
from golden_runs.trees import FSDP2, Value

STEPS = 10
COMMON: dict[str, Value] = {
    "model.name_or_path": "decoder",
    "model.max_length": 64,
    "model.autocast": "off",
    "model.device": "cpu",
    "data.0.path": "train.jsonl",
    "optim.steps": STEPS,
    "optim.lr": 1e-3,
    "batch.size": 24,
    "batch.chunk_tokens": 192,
    "batch.graph_tokens": 600,
    "checkpoint.every": STEPS,
    "checkpoint.keep": 1,
    "eval.after_training": "false",
    "export.model": "false",
}
"""Some chunks of a step keep their graph, the others are embedded twice."""

LORA: dict[str, Value] = {
    "loss.learn_temperature": "true",
    "eval.dev": "dev.jsonl",
    "eval.every": 5,
}
INSTRUCT: dict[str, Value] = {
    "model.prompt": "instruct",
    "lora.dropout": 0.1,
    "loss.symmetric": "true",
    "loss.query_negatives": "true",
    "loss.document_negatives": "true",
    "loss.margin": -0.1,
    "loss.hardness": 2,
    "loss.matryoshka": ["64"],
    "batch.no_duplicates": "true",
}
MIXTURE: dict[str, Value] = {
    "batch.sources": "one",
    "lora.dropout": 0.1,
    "data.0.limit": 60,
    "data.1.path": "train.jsonl",
    "data.1.kind": "texts",
    "data.1.text": "positive",
    "data.2.path": "dev.jsonl",
    "data.2.kind": "graded",
    "data.2.losses.0.kind": "cosent",
    "data.2.losses.1.kind": "angle",
    "data.3.path": "labelled.jsonl",
    "data.3.kind": "labelled",
    "data.3.losses.0.kind": "supcon",
    "data.4.path": "train.jsonl",
    "data.4.losses.0.kind": "infonce",
    "data.4.losses.1.kind": "distil_scores",
    "data.4.losses.1.teacher": "decoder",
    **{f"data.{number}.weight": 1 for number in range(5)},
}
"""A source of each kind, with the losses that go with it."""
FULL: dict[str, Value] = {"lora.method": "full", "optim.lr": 1e-4}
TWO_RANKS: dict[str, Value] = {"model.prompt": "instruct", "loss.learn_temperature": "true"}


def cases() -> list[Case]:
    """Two threads in one case, since chunks then run side by side."""
    return [
        _case("lora", LORA, threads=2),
        _case("instruct", INSTRUCT),
        _case("mixture", MIXTURE),
        _case("full", FULL),
        _case("ddp", TWO_RANKS, ranks=2),
        _case("fsdp2", TWO_RANKS, ranks=2, environment=FSDP2),
    ]


def _case(
    name: str,
    options: Mapping[str, Value],
    *,
    threads: int = 1,
    ranks: int = 0,
    environment: Mapping[str, str] | None = None,
) -> Case:
    run = partial(_train, options=options, threads=threads, ranks=ranks, environment=environment or {})
    return Case(f"steps/{name}", run, partial(compare, f"steps/{name}"))


def _train(
    side: Side,
    folder: Path,
    *,
    options: Mapping[str, Value],
    threads: int,
    ranks: int,
    environment: Mapping[str, str],
) -> Facts:
    hashes, run = folder / "hashes", folder / "run"
    hashes.mkdir()
    arguments = side.tree.arguments("train", {**COMMON, **options, "output_dir": str(run)})
    side.tree.run(
        ["train", *arguments],
        side.inputs,
        threads=threads,
        ranks=ranks,
        environment={**environment, "GOLDEN_HASHES": str(hashes)},
    )
    weights = [*run.glob("adapter/adapter_model.safetensors"), *run.glob("model/model.safetensors")]
    return {
        "metrics": metrics(run),
        "ranks": {path.stem: read_jsonl(path) for path in sorted(hashes.iterdir())},
        "weights": weights_digest(weights[0]),
    }


def compare(name: str, old: Facts, new: Facts) -> Iterator[Finding]:
    """Losses, gradients of each rank, and the weights at the end."""
    losses = [line["loss"] for line in old["metrics"] if "loss" in line]
    figure = f"{len(losses)} losses, {losses[0]!r} to {losses[-1]!r}"
    yield Finding(f"{name} losses", figure, lines_differ("line", old["metrics"], new["metrics"]))
    for rank in sorted(old["ranks"].keys() | new["ranks"].keys()):
        before, after = (facts["ranks"].get(rank, []) for facts in (old, new))
        last: Facts = before[-1] if before else {"gradients": "none", "tensors": 0}
        figure = f"{len(before)} steps, {last['tensors']} tensors, sha256 of the last {last['gradients'][:12]}"
        yield Finding(f"{name} gradients {rank}", figure, lines_differ("step", before, after))
    differ = "" if old["weights"] == new["weights"] else f"sha256 {old['weights'][:12]} is now {new['weights'][:12]}"
    yield Finding(f"{name} final weights", f"sha256 {old['weights'][:12]}", differ)
