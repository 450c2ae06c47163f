"""`dec2vec merge`: several runs -> one folder that is read like a run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dec2vec.config.load import dump, load
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.model_folders import MARKER, Artifact, find
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_folder, atomic_write_text
from train.config import LoraConfig, TrainConfig
from train.export.merge_record import RECORD, record_text
from train.export.save import save_adapter
from train.merging.adapters import (
    Adapter,
    check_modules,
    merge_adapters,
    read_adapter,
    weigh_average,
    weigh_slerp,
    write_adapter,
)
from train.merging.args import MergeArgs
from train.merging.full_weights import average_whole, slerp_whole

_READING = (
    "pooling",
    "pooled_layer",
    "depth",
    "bidirectional",
    "prompt",
    "task",
    "text_normalization",
    "tokenization",
    "max_length",
    "dtype",
)


def merge_command(args: MergeArgs) -> None:
    """Refuse what does not fit before anything is written; the folder appears whole or not at all."""
    shares = _shares(args)
    _check_output(args)
    artifacts = [_artifact(run) for run in args.runs]
    configs = [load(TrainConfig, run / "config.yaml", []) for run in args.runs]
    for run, artifact in zip(args.runs[1:], artifacts[1:], strict=True):
        _check_same_reading(args.runs[0], artifacts[0], run, artifact)
    adapters = _adapters(args, artifacts)
    with atomic_folder(args.output) as folder:
        if adapters is not None:
            rank, form = _write_low_rank(adapters, artifacts[0], args, shares, folder)
            lora = LoraConfig(rank=rank, alpha=float(rank), targets=configs[0].lora.targets)
        else:
            lora, form = configs[0].lora, _write_whole(artifacts, args, shares, folder)
        atomic_write_text(folder / RECORD, record_text(args.runs, shares, args.method, form))
        atomic_write_text(folder / "config.yaml", dump(_config(configs, lora, args.output)))
    if any(artifact.whitening is not None for artifact in artifacts):
        sys.stderr.write("the runs' whitening is left out: it was fitted on vectors that are not the merged model's\n")
    sys.stdout.write(f"{args.output}: {form['form']}\n")


def _shares(args: MergeArgs) -> tuple[float, ...]:
    if len(args.runs) < 2:
        raise UserError("merge: name at least two runs: dec2vec merge RUN RUN ... --output DIR")
    if len({run.resolve() for run in args.runs}) < len(args.runs):
        raise UserError("merge: a run is named twice; give it a larger weight instead")
    if args.method == "slerp" and len(args.runs) != 2:
        raise UserError(f"merge: an arc lies between two runs, not {len(args.runs)}; use --method average")
    weights = args.weights or (1.0,) * len(args.runs)
    if len(weights) != len(args.runs):
        raise UserError(f"merge: {len(weights)} weights for {len(args.runs)} runs; give one for each")
    total = sum(weights)
    if total == 0:
        raise UserError("merge: all weights are 0; give one that is not")
    return tuple(weight / total for weight in weights)


def _check_output(args: MergeArgs) -> None:
    """Only an empty folder or an earlier merge is replaced, and never a run that is read."""
    target = args.output.resolve()
    if any(run.resolve().is_relative_to(target) or target.is_relative_to(run.resolve()) for run in args.runs):
        raise UserError(f"--output {args.output}: is, holds or lies in one of the runs; name another folder")
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / RECORD).is_file()):
        raise UserError(f"--output {args.output}: exists and is no merged run; name another folder or move it away")


def _artifact(run: Path) -> Artifact:
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}: not a run folder (no config.yaml); give the output_dir of a training run")
    found = find(ModelConfig(name_or_path=str(run), device="cpu"))
    if found is None:
        raise UserError(f"{run}: nothing to merge yet (no adapter/ or model/); let the training run finish first")
    return found


def _check_same_reading(first: Path, one: Artifact, name: Path, other: Artifact) -> None:
    for what in ("name_or_path", "revision"):
        mine, theirs = vars(one.config)[what], vars(other.config)[what]
        if mine != theirs:
            raise UserError(f"{name}: its base {what} is {theirs}, of {first} {mine}; merge runs of one base")
    for option in _READING:
        mine, theirs = (getattr(artifact.config, option) for artifact in (one, other))
        if mine != theirs:
            raise UserError(f"{name}: model.{option} is {theirs}, of {first} {mine}; merge runs that are read alike")


def _adapters(args: MergeArgs, artifacts: Sequence[Artifact]) -> list[Adapter] | None:
    """All adapters as low-rank sums, or None where one is more than that, or nothing is an adapter."""
    found = [None if artifact.adapter is None else read_adapter(artifact.adapter) for artifact in artifacts]
    plain = [adapter for adapter in found if adapter is not None]
    if len(plain) == len(found):
        check_modules(plain, [str(run) for run in args.runs])
        return plain
    if args.rank is not None:
        run = args.runs[found.index(None)]
        raise UserError(
            f"--rank {args.rank}: {run} is no plain LoRA adapter, so whole weights are merged; leave it out"
        )
    return None


def _write_low_rank(
    adapters: Sequence[Adapter], first: Artifact, args: MergeArgs, shares: Sequence[float], folder: Path
) -> tuple[int, dict[str, object]]:
    """`adapter/` with the first run's reading; its rank and what the record says of it."""
    weigh = weigh_slerp(shares[1]) if args.method == "slerp" else weigh_average(shares)
    merged, error = merge_adapters(adapters, weigh, args.rank)
    rank = int(merged.config["r"])
    (folder / "adapter").mkdir()
    write_adapter(merged, folder / "adapter")
    assert first.adapter is not None
    shutil.copyfile(first.adapter / MARKER, folder / "adapter" / MARKER)
    exact = "exact" if args.rank is None else f"relative error {error:.2g}"
    return rank, {"form": f"adapter of rank {rank} ({exact})", "rank": rank, "relative_error": error}


def _write_whole(
    artifacts: Sequence[Artifact], args: MergeArgs, shares: Sequence[float], folder: Path
) -> dict[str, object]:
    """`model/`, as nothing in it is an adapter any more."""
    names = [str(run) for run in args.runs]
    if args.method == "slerp":
        encoder = slerp_whole(artifacts, names, shares[1])
    else:
        encoder = average_whole(artifacts, names, shares)
    encoder.whitening = None
    save_adapter(encoder, folder / "adapter")
    return {"form": "whole model"}


def _config(configs: Sequence[TrainConfig], lora: LoraConfig, output: Path) -> TrainConfig:
    """The first run's, with the data of all: what the merged model has seen."""
    data = tuple(dict.fromkeys(source for config in configs for source in config.data))
    return replace(configs[0], data=data, lora=lora, output_dir=str(output.resolve()))
