"""From a configuration to a run that can be stepped, and from a trained run to the folders it leaves."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dec2vec.artifacts import find
from dec2vec.backbone import pinned_revision, resolve_device, use_autocast
from dec2vec.config import config_hash, dump
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.model_config import LOGIT_POOLINGS, ModelConfig
from dec2vec.prompts import get_prompt
from train.adapters.capabilities import leave_out_padding
from train.adapters.lora import make_trainable
from train.checkpointing.checkpoint import Checkpoint, latest_checkpoint, load_checkpoint
from train.checkpointing.run_folder import RunFolder
from train.config import LossConfig, TrainConfig
from train.data import report as data_report
from train.data.dataset import TrainingData
from train.data.make_sampler import make_sampler
from train.data.sampler import Sampler
from train.data.token_cache import known_tokens
from train.distributed.collectives import gather_rows
from train.distributed.engine import (
    Engine,
    adapters_under,
    check_shardable,
    engine_of,
    loading_place,
    optimizer_under,
    wrap,
)
from train.export.save import check_mergeable, check_replaceable
from train.export.sentence_transformers import check_exportable
from train.export.tokenizer import save_tokenizer
from train.loop import DevScore, Run, restore
from train.losses.checks import check_dropout
from train.losses.matryoshka import check_width
from train.losses.per_source import check_losses, losses_of, run_temperature
from train.mining.refresh import make_refreshed
from train.step import Learner, make_optimizer
from train.teachers.teacher_vectors import load_teachers
from train.tracking.make_tracker import make_tracker
from train.tracking.metrics_file import MetricsFile
from train.tracking.tracker import Tracker

_log = logging.getLogger(__name__)
RESUMABLE_CHANGES = (
    "batch.cache_tokens",
    "checkpoint",
    "distributed",
    "tracking",
    "eval.tests",
    "eval.every",
    "eval.after_training",
    "eval.fit_sentences",
    "export",
    "output_dir",
)
"""Sections and options that may differ between a run and its resumption."""


def resolve(config: TrainConfig) -> TrainConfig:
    """Replace what depends on the machine or the working directory by what it means here.

    The result is written to the run folder and gives the same run again.
    """
    get_prompt(config.model.prompt, config.model.task)  # one prompt: an ensemble can't be trained
    check_losses(config)
    for source in config.data:
        for prompt in filter(None, (source.query_prompt, source.document_prompt)):
            get_prompt(prompt, config.model.task)
    if config.model.pooling in LOGIT_POOLINGS:
        raise UserError(f"model.pooling {config.model.pooling}: for encoding and evaluation only; train with last")
    if config.export.model:
        _check_prompt(config.model)
        if config.export.merge and config.model.load_in_4bit:
            raise UserError("export.merge: an adapter can't be merged into 4-bit weights; leave it out")
        check_mergeable(config.model, merge=config.lora.method == "full" or config.export.merge)
    device = resolve_device(config.model.device)
    model = dataclasses.replace(
        config.model,
        device="cuda" if device.type == "cuda" else "cpu",
        autocast="on" if use_autocast(config.model.autocast, device) else "off",
        name_or_path=_absolute(config.model.name_or_path),
        revision=pinned_revision(config.model),
    )
    data = tuple(
        dataclasses.replace(source, path=_absolute(source.path), losses=tuple(map(_located, source.losses)))
        for source in config.data
    )
    dev = None if config.eval.dev is None else _absolute(config.eval.dev)
    tests = tuple(_absolute(path) for path in config.eval.tests)
    return dataclasses.replace(
        config,
        model=model,
        data=data,
        loss=_located(config.loss),
        eval=dataclasses.replace(config.eval, dev=dev, tests=tests),
    )


def _located(loss: LossConfig) -> LossConfig:
    return loss if loss.teacher is None else dataclasses.replace(loss, teacher=_absolute(loss.teacher))


def open_folder(config: TrainConfig, accelerator: Accelerator) -> RunFolder:
    """The run folder, locked by the main process."""
    if accelerator.is_main_process:
        return RunFolder.claim(config.output_dir)
    return RunFolder(Path(config.output_dir))


def leave(accelerator: Accelerator) -> None:
    """End the process group, without a barrier: the main process may have evaluated for hours.

    The wrapped model must go first. DDP's C++ reducer, as the last owner of a Gloo group, joins its threads while
    holding the GIL, which one of them may be waiting for (PyTorch issue 56297; hung in 1 of some 50 runs).
    """
    accelerator.free_memory()
    accelerator.end_training()


def build(
    config: TrainConfig,
    data: TrainingData,
    accelerator: Accelerator,
    folder: RunFolder,
    dev_score: DevScore | None,
) -> Run:
    """Load, adapt and wrap the model, and go on from the newest checkpoint if there is one.

    Whatever may be refused comes before the tracker, with which the run takes over the folder.
    """
    engine = engine_of(accelerator)
    check_shardable(engine, config)
    _check_targets(config, folder)
    hashed = _run_hash(config, data)
    sampler = make_sampler(config, data)
    refreshed = make_refreshed(config, data, folder, is_main=accelerator.is_main_process)
    checkpoint = _found_checkpoint(config, hashed, folder, accelerator)
    encoder = _trainable(config, engine)
    report = data_report.describe(data, sampler, encoder) if accelerator.is_main_process else None
    steps = total_steps(config, sampler)
    learner = _learner(config, encoder, accelerator, steps)
    teachers = load_teachers(config, data, folder.path / "teachers")
    known = known_tokens(config, data, encoder, folder.tokens, steps)
    run = Run(
        config=config,
        folder=folder,
        encoder=encoder,
        learner=learner,
        data=data,
        teachers=teachers,
        sampler=sampler,
        dev_score=dev_score,
        tracker=_tracker(config, folder, accelerator, 0 if checkpoint is None else checkpoint.step),
        metrics=MetricsFile(folder.metrics, accelerator.is_main_process),
        config_hash=hashed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        known=known,
        refreshed=refreshed,
    )
    if report is not None:
        data_report.write(report, folder.data)
        _log.info("%s", "\n".join(data_report.lines(report)))
    if checkpoint is not None:
        restore(run, checkpoint)
        if run.is_main:
            _log.info("goes on from step %d of %d, which %s holds", checkpoint.step, steps, checkpoint.path)
    return run


def _found_checkpoint(
    config: TrainConfig, hashed: str, folder: RunFolder, accelerator: Accelerator
) -> Checkpoint | None:
    """What the run goes on from, the same on all ranks; None at its beginning."""
    resumes = config.checkpoint.resume == "auto"
    checkpoint = latest_checkpoint(folder.checkpoints, hashed) if resumes else None
    _same_on_all_ranks(0 if checkpoint is None else checkpoint.step, folder, accelerator)
    return checkpoint


def _learner(config: TrainConfig, encoder: Encoder, accelerator: Accelerator, steps: int) -> Learner:
    """The wrapped model with its temperature and what steps both under this engine."""
    model = wrap(encoder.embedder, accelerator)
    if config.batch.unpadded:
        leave_out_padding(encoder.embedder)
    temperature = run_temperature(config).to(encoder.device)
    optimizer = make_optimizer(encoder.embedder, temperature, config.optim)
    engine, limit = engine_of(accelerator), config.optim.max_grad_norm
    return Learner(model, temperature, optimizer_under(engine, encoder.embedder, optimizer, limit), steps)


def _trainable(config: TrainConfig, engine: Engine) -> Encoder:
    """The base with weights to tune, in training mode, once nothing about it is left to refuse."""
    torch.manual_seed(config.seed)
    encoder = load_base(config.model, loading_place(engine, config.model))
    if config.export.model:
        check_export(encoder)
    make_trainable(encoder.embedder, adapters_under(engine, config.lora))
    encoder.embedder.train()
    _check_sources(config, encoder)
    return encoder


def _check_sources(config: TrainConfig, encoder: Encoder) -> None:
    """Every source's prompts leave room for a text, and texts that are embedded twice get two vectors."""
    for number, source in enumerate(config.data):
        for prompt, side in data_report.prompts_of(source):
            encoder.tokenize(["a"], prompt=prompt, side=side)
        for loss in losses_of(source, config):
            check_width(loss, encoder.dimension)
        if source.kind == "texts" and not all(loss.teacher for loss in losses_of(source, config)):
            check_dropout(_architecture(encoder), config.lora, f"data.{number}.kind texts")


def _architecture(encoder: Encoder) -> dict[str, object]:
    backbone: Any = encoder.embedder.backbone
    found: dict[str, object] = backbone.config.get_text_config().to_dict()
    return found


def _check_targets(config: TrainConfig, folder: RunFolder) -> None:
    """What the export will replace must be ours, and not the base that is trained and compared with."""
    is_full = config.lora.method == "full"
    targets = [folder.model] * (is_full or config.export.model) + [folder.adapter] * (not is_full)
    artifact = find(config.model)
    base = Path((config.model if artifact is None else artifact.base).name_or_path).resolve()
    for target in targets:
        if base.is_relative_to(target.resolve()):
            raise UserError(f"model.name_or_path {base}: training would replace it; choose another --output_dir")
        check_replaceable(target)


def _same_on_all_ranks(step: int, folder: RunFolder, accelerator: Accelerator) -> None:
    """The main process writes the checkpoints; a node that can't see them would begin at step 0 without a word."""
    steps, _ = gather_rows(torch.tensor([step], device=accelerator.device))
    if steps.min() != steps.max():
        raise UserError(
            f"output_dir {folder.path}: processes find different checkpoints (steps {steps.tolist()}); put it on a "
            "disk that all nodes share, or use --checkpoint.resume never"
        )


def load_base(config: ModelConfig, place: ModelConfig | None = None) -> Encoder:
    """The encoder before training, found to take texts in its prompt (EOS, room) before the first step needs it.

    It is read as `config` says, also where the base is an exported folder that brings a reading of its own. `place`
    is `config` with another device to put the weights on.
    """
    artifact = find(config)
    if artifact is not None and artifact.adapter is not None:
        raise UserError(
            f"model.name_or_path {config.name_or_path}: has an adapter already; to train on, make a whole model of it "
            "with dec2vec export RUN --to DIR --merge, and name DIR"
        )
    found = config if artifact is None else artifact.base
    base = dataclasses.replace(place or config, name_or_path=found.name_or_path, revision=found.revision)
    encoder = Encoder.from_backbone(config, base=base)
    encoder.tokenize(["a"])
    return encoder


def _tracker(config: TrainConfig, folder: RunFolder, accelerator: Accelerator, step: int) -> Tracker:
    """Metrics beyond `step` were logged by a run that died before its next checkpoint: they come again."""
    if accelerator.is_main_process:
        if config.checkpoint.resume == "never":
            folder.start_anew()
        folder.write_config(dump(config))
        MetricsFile(folder.metrics).truncate_after(step)
    return make_tracker(config.tracking, folder.path, dataclasses.asdict(config), accelerator.is_main_process)


def take_best(run: Run) -> Run:
    """The run with the weights of the step that scored best on dev, or the last ones without a dev file.

    Weights in shards come back whole: the base is read again by this one process, onto its device if texts are to be
    encoded and else into host memory.
    """
    best = run.state.step if run.state.best_step is None else run.state.best_step
    is_sharded = run.is_sharded
    if is_sharded:
        run = _unsharded(run)
    if is_sharded or best != run.state.step:
        path = run.folder.checkpoints / f"step-{best:06d}"
        restore(run, load_checkpoint(path, run.config_hash), optimizer=False)
    run.encoder.embedder.eval()
    return run


def _unsharded(run: Run) -> Run:
    config, learner = run.config, run.learner
    torch.manual_seed(config.seed)  # as in build: what an adapter's init does to the base comes out the same
    encodes = config.export.whiten or (config.eval.after_training and config.eval.tests)
    encoder = load_base(config.model, config.model if encodes else loading_place("fsdp2", config.model))
    make_trainable(encoder.embedder, config.lora)
    optimizer = make_optimizer(encoder.embedder, learner.temperature, config.optim)
    alone = dataclasses.replace(learner, model=encoder.embedder, optimizer=optimizer)
    return dataclasses.replace(run, encoder=encoder, learner=alone)


def total_steps(config: TrainConfig, sampler: Sampler) -> int:
    """`optim.steps`, or the steps of `optim.epochs`."""
    if config.optim.steps is not None:
        return config.optim.steps
    return max(1, math.ceil(config.optim.epochs * sampler.steps_per_epoch))


def check_export(encoder: Encoder) -> None:
    """Refuse before training what `model/` could not express after it."""
    check_exportable(encoder)
    with tempfile.TemporaryDirectory() as trial:
        save_tokenizer(encoder, Path(trial))


def _run_hash(config: TrainConfig, data: TrainingData) -> str:
    """A checkpoint belongs to one configuration and one data content."""
    options = config_hash(config, exclude=RESUMABLE_CHANGES)
    return hashlib.sha256(f"{options} {data.sizes} {data.content_hash}".encode()).hexdigest()


def _check_prompt(model: ModelConfig) -> None:
    """A tuned model must export to plain tokenizers, which can't tokenise text and suffix as one."""
    prompt = get_prompt(model.prompt, model.task)
    if prompt.suffix and model.tokenization == "joint":
        raise UserError(
            f"model.prompt {prompt.name!r} has text behind the slot; add --model.tokenization separate, so that the "
            "exported tokenizer can write the prompt, or --export.model false"
        )


def _absolute(path: str) -> str:
    """Local paths become absolute; Hub ids stay."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path
