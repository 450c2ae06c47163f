"""Everything that is refused before the first step.

    check_config(config)                   before anything is read
    check_upload(config)                   the Hub's answer about a push
    check_folder(config, engine, folder)   once the run folder is locked, before the model is loaded
    check_same_step(step, ...)             once each process has looked for a checkpoint
    check_model(config, encoder)           once the base is loaded
    check_disk(config, encoder, folder)    once it is known which weights are trained

What only the rows can tell is refused where they are read: `train.data` for files, batches and labels,
`train.mining.refresh` for mined negatives, `train.__main__` for what the evaluation after training reads.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dec2vec.config.model import LOGIT_POOLINGS, ModelConfig
from dec2vec.config.tasks import check_task
from dec2vec.decoder.model_folders import find
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import PUBLISHED, get_prompt
from train.adapters.lora import check_adapter_options, trainable_parameters
from train.checkpointing.run_folder import RunFolder
from train.config import EvalSection, ExportConfig, TrainConfig
from train.data import report as data_report
from train.distributed.collectives import gather_rows, is_first_process
from train.distributed.interface import Engine
from train.distributed.zero3 import Zero3
from train.export.card_terms import check_terms
from train.export.push import check_repository_name, check_rights, check_token
from train.export.save import check_mergeable, check_replaceable
from train.export.sentence_transformers import check_exportable
from train.export.staging import has_quantized_base
from train.export.tokenizer import save_tokenizer
from train.losses.checks import check_dropout, check_losses
from train.losses.matryoshka import check_width
from train.losses.per_source import losses_of
from train.options.data import SourceConfig
from train.warm_start import adapter_folder, check_no_adapter, check_pooled_prompt, with_adapter

_MOMENT_BYTES = 8
"""Bytes of AdamW's two moments for each trained number."""


def check_config(config: TrainConfig) -> None:
    """Refuse what the configuration alone, with the adapter that it names, shows to be impossible."""
    config = with_adapter(config)
    _check_prompts(config)
    check_losses(config)
    if config.model.pooling_name in LOGIT_POOLINGS:
        raise UserError(f"model.pooling {config.model.pooling} is only for encoding and evaluation; train with last")
    check_adapter_options(config.lora)
    if config.export.model:
        _check_model_folder(config)
    _check_push(config)
    _check_sources(config)
    if config.batch.sources == "mixed":
        _check_mixture(config.data)
    if config.mining.every is not None:
        _check_mining(config)
    _check_evaluation(config.eval, config.export)


def check_upload(config: TrainConfig) -> None:
    """Ask the Hub whether it would refuse the push. Only the main process does, as it alone pushes."""
    if config.export.push is not None and is_first_process():
        check_rights(config.export.push, private=config.export.private)


def without_effects(config: TrainConfig) -> TrainConfig:
    """`config` for `--plan`, without what a run tells others; UserError for a run that cannot be planned."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--plan: it plans the run of one process; start it without a launcher")
    if any(loss.teacher for source in config.data for loss in losses_of(source, config)):
        raise UserError(
            "--plan: a teacher's vectors are computed before the first step, which it cannot foresee; plan the run "
            "without the loss that has a teacher"
        )
    tracking = dataclasses.replace(config.tracking, backend="none", upload=False)
    return dataclasses.replace(config, tracking=tracking, export=dataclasses.replace(config.export, push=None))


def check_folder(config: TrainConfig, engine: type[Engine], folder: RunFolder) -> None:
    """Refuse an engine, a base or a run folder with which the run could not end."""
    if engine.passes_are_collective:
        _check_collective_passes(config, engine)
    artifact, adapter = find(config.model), adapter_folder(config.model)
    base = Path((config.model if artifact is None else artifact.base).name_or_path)
    for target in _replaced(config, folder):
        for option, path in (("name_or_path", base), ("adapter", adapter)):
            if path is not None and path.resolve().is_relative_to(target.resolve()):
                raise UserError(
                    f"model.{option} {path.resolve()} would be overwritten by training; choose another output_dir"
                )
        check_replaceable(target)
    _check_places(folder)
    check_no_adapter(config.model)


def check_same_step(step: int, folder: RunFolder, accelerator: Accelerator) -> None:
    """The main process writes the checkpoints; a node that cannot see them would start again at step 0."""
    steps, _ = gather_rows(torch.tensor([step], device=accelerator.device))
    if steps.min() != steps.max():
        raise UserError(
            f"output_dir {folder.path}: processes find different checkpoints (steps {steps.tolist()}); put it on a "
            "shared disk, or use checkpoint.resume fresh"
        )


def check_model(config: TrainConfig, encoder: Encoder) -> None:
    """Refuse a base that cannot be exported, or does not fit the prompts and losses of a source."""
    if config.export.model:
        check_exportable(encoder)
        with tempfile.TemporaryDirectory() as trial:
            save_tokenizer(encoder, Path(trial))
    for number, source in enumerate(config.data):
        for prompt, side in data_report.prompts_of(source):
            encoder.tokenize(["a"], prompt=prompt, side=side)  # refuses a prompt that leaves no room for a text
            check_pooled_prompt(encoder, encoder.ensemble(prompt, side).members[0])
        for loss in losses_of(source, config):
            check_width(loss, encoder.dimension)
        if source.kind == "texts" and not all(loss.teacher for loss in losses_of(source, config)):
            check_dropout(_architecture(encoder), config.lora, f"data.{number}.kind texts")


def check_disk(config: TrainConfig, encoder: Encoder, folder: RunFolder) -> None:
    """Refuse a disk that has no room for one checkpoint and the exported weights."""
    trained = trainable_parameters(encoder.embedder).values()
    needed = sum(value.numel() * (value.element_size() + _MOMENT_BYTES) for value in trained)
    merges = config.export.model and (config.export.merge or has_quantized_base(encoder))
    if config.lora.method == "full" or merges:
        needed += sum(value.numel() * value.element_size() for value in encoder.embedder.parameters())
    free = shutil.disk_usage(folder.path).free
    if needed > free:
        raise UserError(
            f"output_dir {folder.path}: its disk has {free / 2**20:,.0f} MiB left, but a checkpoint and the exported "
            f"weights need {needed / 2**20:,.0f} MiB; free some space or choose another output_dir"
        )


def _check_places(folder: RunFolder) -> None:
    """What a run writes later: a folder must not be a file, nor a file a folder, and both must be writable."""
    for path in (folder.checkpoints, folder.report, folder.negatives, folder.tokens):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file, but the run writes a folder there; move it or use another output_dir")
    for path in (folder.config, folder.metrics, folder.data):
        if path.is_dir():
            raise UserError(f"{path} is a folder, but the run writes a file there; move it or use another output_dir")
    for path in (folder.path, folder.checkpoints, folder.report):
        if path.exists() and not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"{path} is not writable; change its permissions or choose another output_dir")


def _check_prompts(config: TrainConfig) -> None:
    """Every prompt is known, and a single one: an ensemble cannot be trained."""
    named = {config.model.prompt_name}
    named |= {prompt for source in config.data for prompt in (source.query_prompt, source.document_prompt) if prompt}
    for prompt in sorted(named - {PUBLISHED}):  # whether the base is a published embedder is known when it is loaded
        get_prompt(prompt, config.model.task)


def _check_model_folder(config: TrainConfig) -> None:
    check_terms(config.export)
    _check_exported_prompt(config.model)
    if config.export.merge and config.model.load_in_4bit:
        raise UserError("export.merge: an adapter cannot be merged into 4-bit weights; remove it")
    check_mergeable(config.model, merge=config.lora.method == "full" or config.export.merge)


def _check_exported_prompt(model: ModelConfig) -> None:
    """The tokenizer of an exported model cannot tokenize text and suffix as one string."""
    if model.prompt == PUBLISHED:
        return
    prompt = get_prompt(model.prompt_name, model.task)
    if prompt.suffix and model.tokenization == "joint":
        raise UserError(
            f"model.tokenization joint: the prompt {prompt.name!r} has text after {{text}}, which the exported "
            "tokenizer can only add with model.tokenization separate; use it, or export.model false"
        )


def _check_push(config: TrainConfig) -> None:
    if config.export.push is None:
        return
    if not config.export.model:
        raise UserError("export.push: it pushes model/, which export.model false does not write; remove one of the two")
    if config.model.load_in_4bit and Path(config.model.name_or_path).is_dir():
        raise UserError(
            "export.push: others cannot read a local base folder, and an adapter cannot be merged into 4-bit weights; "
            "give the base by its Hub id, or remove export.push"
        )
    check_repository_name(config.export.push)
    if os.environ.get("RANK", "0") == "0":
        check_token()  # the other processes push nothing, perhaps on hosts without a login


_DEFAULT_SOURCE = SourceConfig("")


def _check_sources(config: TrainConfig) -> None:
    """There are sources, each with a path and the options of its kind."""
    if not config.data:
        raise UserError("config error: data: no training pairs are given; give a file with data.0.path pairs.jsonl")
    for number, source in enumerate(config.data):
        if not source.path:
            raise UserError("config error: data: a source has no path; give a file, a folder or a Hub id")
        if source.kind == "labelled" and config.batch.no_duplicates:
            raise UserError(
                f"batch.no_duplicates: data.{number} is labelled, and its batches are drawn by label; remove it, or "
                f"drop equal rows with data.{number}.clean true"
            )
        teacher = next((loss.teacher for loss in losses_of(source, config) if loss.teacher), None)
        if source.streaming and teacher is not None:
            raise UserError(
                f"data.{number}.streaming: the teacher {teacher} embeds all texts before the first step, and its "
                "vectors do not fit a source that is larger than memory; remove one of the two"
            )
        for option in ("negatives", "document_id", "corpus", "queries", "min_grade", "bad_rows", "document_prompt"):
            if source.kind != "pairs" and getattr(source, option) not in (getattr(_DEFAULT_SOURCE, option), ()):
                raise UserError(
                    f"data.{number}.{option} is only for pairs, but data.{number}.kind is {source.kind}; remove it"
                )


def _check_mixture(sources: tuple[SourceConfig, ...]) -> None:
    """Sources that share their batches are of one kind, with one set of losses, and are not weighted."""
    for number, source in enumerate(sources):
        if source.weight is not None:
            raise UserError(
                f"data.{number}.weight is only used for batches of a single source; add batch.sources single"
            )
    for option in ("kind", "losses", "texts_per_label"):
        for number, source in enumerate(sources):
            if getattr(source, option) != getattr(sources[0], option):
                raise UserError(
                    f"data.{number}.{option} differs from that of data.0, so a batch cannot contain both; add "
                    "batch.sources single"
                )


def _check_mining(config: TrainConfig) -> None:
    mining = config.mining
    if all(source.kind != "pairs" for source in config.data):
        raise UserError("mining.every: only pairs get negatives, and no source has pairs; remove it")
    if config.batch.no_duplicates:
        raise UserError(
            "mining.every: mined negatives repeat positives of other rows, which batch.no_duplicates forbids; remove "
            "one of the two"
        )
    if mining.min_rank + mining.negatives > mining.max_rank + 1:
        raise UserError(
            f"mining.negatives {mining.negatives} is more than the window of ranks {mining.min_rank} to "
            f"{mining.max_rank} contains; raise mining.max_rank"
        )


def _check_evaluation(evaluation: EvalSection, export: ExportConfig) -> None:
    """Tests need no dev file: the last checkpoint is exported, and nothing has to be chosen for its report."""
    for name, tasks in (("dev", evaluation.dev_tasks), ("tests", evaluation.test_tasks)):
        for number, task in enumerate(tasks):
            check_task(f"eval.{name}.{number}", task)
    if evaluation.similarity_dev is None and export.whiten:
        raise UserError("export.whiten: its k is selected on dev; give a similarity file with eval.dev")
    for option in ("metric", "patience"):
        if not evaluation.dev_tasks and getattr(evaluation, option) is not None:
            raise UserError(f"eval.{option}: there are no dev data to judge by; give some with eval.dev, or remove it")


def _check_collective_passes(config: TrainConfig, engine: type[Engine]) -> None:
    """What one process does with whole weights while the others wait."""
    under = f"not supported under {engine.title}"
    if config.mining.every is not None:
        raise UserError(
            f"mining.every: {under}, where each forward pass is collective; run dec2vec mine before training"
        )
    if config.export.push is not None:
        raise UserError(
            f"export.push: {under}, where a process holds only shards of the weights; push the finished run with "
            "dec2vec export"
        )
    if engine is Zero3 and config.model.load_in_4bit:
        raise UserError("model.load_in_4bit: not supported under ZeRO-3; use configs/accelerate/fsdp2-4bit.yaml")


def _replaced(config: TrainConfig, folder: RunFolder) -> list[Path]:
    """Folders that the export at the end replaces."""
    is_full = config.lora.method == "full"
    return [folder.model] * (is_full or config.export.model) + [folder.adapter] * (not is_full)


def _architecture(encoder: Encoder) -> dict[str, object]:
    backbone: Any = encoder.embedder.backbone
    options: dict[str, object] = backbone.config.get_text_config().to_dict()
    return options
