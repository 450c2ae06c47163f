"""The runs of a merge, read and compared, and the run folder that is made of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dec2vec.config.load import dump, load
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.dense_head import HEAD_FILE, DenseHead
from dec2vec.decoder.model_folders import MARKER, Artifact, find
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_folder, atomic_write_text
from dec2vec.files.dev_record import merged, write_record
from dec2vec.identity import READING
from train.config import LoraConfig, TrainConfig
from train.export.card_scores import what_chose
from train.export.merge_record import RECORD, record_text
from train.export.save import save_adapter
from train.losses.per_source import losses_of
from train.merging.adapters import (
    Adapter,
    check_modules,
    merge_adapters,
    read_adapter,
    weigh_average,
    weigh_slerp,
    write_adapter,
)
from train.merging.full_weights import average_whole, slerp_whole
from train.options.losses import LossConfig


@dataclass(frozen=True)
class FinishedRun:
    """A run folder, the weights in it, and its configuration."""

    path: Path
    artifact: Artifact
    config: TrainConfig


def read_runs(paths: Sequence[Path]) -> list[FinishedRun]:
    """The runs of a merge. UserError if one is not finished or their encoders read texts in different ways."""
    runs = [_read_run(path) for path in paths]
    for run in runs[1:]:
        _check_same_reading(runs[0], run)
    return runs


def _read_run(path: Path) -> FinishedRun:
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path}: not a run folder (no config.yaml); give the output_dir of a training run")
    artifact = find(ModelConfig(name_or_path=str(path), device="cpu"))
    if artifact is None:
        raise UserError(f"{path} has nothing to merge yet (no adapter/ or model/); wait until training has finished")
    return FinishedRun(path, artifact, load(TrainConfig, path / "config.yaml", []))


def _check_same_reading(first: FinishedRun, run: FinishedRun) -> None:
    for option in ("name_or_path", "revision"):
        expected, value = (vars(each.artifact.config)[option] for each in (first, run))
        if value != expected:
            raise UserError(
                f"{run.path}: its base {option} is {value}, but that of {first.path} is {expected}; merge runs with "
                "the same base"
            )
    for option in READING:
        expected, value = (getattr(each.artifact.config, option) for each in (first, run))
        if value != expected:
            raise UserError(
                f"{run.path}: model.{option} is {value}, but that of {first.path} is {expected}; merge runs with the "
                "same prompt, layer and pooling"
            )
    layers = [each.artifact.head and each.artifact.head.steps for each in (first, run)]
    shapes = [[tensor.shape for tensor in head_tensors(each).values()] for each in (first, run)]
    if layers[0] != layers[1] or shapes[0] != shapes[1]:
        raise UserError(
            f"{run.path}: its projection (loss.projection keep) has another form than that of {first.path}, or is in "
            "one of them only; merge runs with the same one"
        )


def head_tensors(run: FinishedRun) -> Mapping[str, Tensor]:
    """The weights of the Dense layers of a run that has trained one of them; empty for others."""
    return {} if run.artifact.head is None else run.artifact.head.tensors


def merged_head(runs: Sequence[FinishedRun], weights: Sequence[float]) -> dict[str, Tensor]:
    """The average of trained Dense layers, also with slerp: a projection has no base from which its change starts."""
    found = {}
    for name in head_tensors(runs[0]):
        parts = [weight * head_tensors(run)[name].double() for run, weight in zip(runs, weights, strict=True)]
        found[name] = torch.stack(parts).sum(0).float()
    return found


def write_merged(
    runs: Sequence[FinishedRun], output: Path, weights: Sequence[float], method: str, rank: int | None
) -> str:
    """Write the merged run folder, whole or not at all; return the form of its weights in words."""
    adapters, head = _adapters(runs, rank), merged_head(runs, weights)
    with atomic_folder(output) as folder:
        if adapters is not None:
            form = _write_low_rank(adapters, runs[0].artifact, weights, method, rank, folder, head)
            merged_rank = form["rank"]
            lora = LoraConfig(rank=merged_rank, alpha=float(merged_rank), targets=runs[0].config.lora.targets)
        else:
            form, lora = _write_whole(runs, weights, method, folder, head), runs[0].config.lora
        write_record(merged([what_chose(run.path, run.config) for run in runs]), folder)
        paths = [run.path for run in runs]
        atomic_write_text(folder / RECORD, record_text(paths, weights, method, form))
        atomic_write_text(folder / "config.yaml", dump(_merged_config(runs, lora, output)))
    return str(form["form"])


def _adapters(runs: Sequence[FinishedRun], rank: int | None) -> list[Adapter] | None:
    """All adapters as low-rank sums. None if a run has no adapter, or one that is more than such a sum."""
    adapters = [None if run.artifact.adapter is None else read_adapter(run.artifact.adapter) for run in runs]
    low_rank = [adapter for adapter in adapters if adapter is not None]
    if len(low_rank) == len(adapters):
        check_modules(low_rank, [str(run.path) for run in runs])
        return low_rank
    if rank is not None:
        path = runs[adapters.index(None)].path
        raise UserError(f"--rank {rank}: {path} is not a plain LoRA adapter, so full weights are merged; remove --rank")
    return None


def _write_low_rank(
    adapters: Sequence[Adapter],
    first: Artifact,
    weights: Sequence[float],
    method: str,
    rank: int | None,
    folder: Path,
    head: dict[str, Tensor],
) -> dict[str, Any]:
    """`adapter/`, read like the first run's; returns what the record says of it."""
    weigh = weigh_slerp(weights[1]) if method == "slerp" else weigh_average(weights)
    merged, error = merge_adapters(adapters, weigh, rank)
    merged_rank = int(merged.config["r"])
    (folder / "adapter").mkdir()
    write_adapter(merged, folder / "adapter")
    assert first.adapter is not None
    for name in (MARKER, HEAD_FILE):
        if (first.adapter / name).is_file():
            shutil.copyfile(first.adapter / name, folder / "adapter" / name)
    if head:
        save_file(head, folder / "adapter" / HEAD_FILE, metadata={"format": "pt"})
    accuracy = "exact" if rank is None else f"relative error {error:.2g}"
    return {"form": f"adapter of rank {merged_rank} ({accuracy})", "rank": merged_rank, "relative_error": error}


def _write_whole(
    runs: Sequence[FinishedRun], weights: Sequence[float], method: str, folder: Path, head: dict[str, Tensor]
) -> dict[str, Any]:
    """`model/`, since the merged weights are not an adapter any more."""
    artifacts, names = [run.artifact for run in runs], [str(run.path) for run in runs]
    if method == "slerp":
        encoder = slerp_whole(artifacts, names, weights[1])
    else:
        encoder = average_whole(artifacts, names, weights)
    encoder.whitening = None
    if head and encoder.embedder.head is not None:
        encoder.embedder.put_head(DenseHead(encoder.embedder.head.steps, head))
    save_adapter(encoder, folder / "adapter")
    return {"form": "whole model"}


def _merged_config(runs: Sequence[FinishedRun], lora: LoraConfig, output: Path) -> TrainConfig:
    """The first run's configuration with the data of all runs, which the merged model has seen.

    If the runs have different losses, each source keeps those that it was trained with.
    """
    first = runs[0].config
    if all(run.config.loss == first.loss for run in runs):
        data, loss = [source for run in runs for source in run.config.data], first.loss
    else:
        data = [replace(source, losses=losses_of(source, run.config)) for run in runs for source in run.config.data]
        loss = LossConfig()
    unique = tuple(dict.fromkeys(data))
    return replace(first, data=unique, loss=loss, lora=lora, output_dir=str(output.resolve()))
