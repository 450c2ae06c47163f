"""From a configuration to a run: sampler, encoder, learner, teachers, token ids."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
from pathlib import Path

import torch
from accelerate import Accelerator

from dec2vec.config.load import config_hash, dump
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.model_folders import find
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from train.adapters.capabilities import leave_out_padding
from train.adapters.lora import make_trainable
from train.checkpointing.checkpoint import Checkpoint, latest_checkpoint
from train.checkpointing.run_folder import RunFolder
from train.config import RESUMABLE_CHANGES, TrainConfig
from train.data import report as data_report
from train.data.dataset import TrainingData
from train.data.make_sampler import make_sampler
from train.data.sampler import Sampler
from train.data.token_cache import known_tokens
from train.distributed.engine import choose_engine, wrap
from train.distributed.interface import Engine
from train.losses.per_source import run_temperature
from train.mining.refresh import make_refreshed
from train.optim import Learner, make_optimizer
from train.preflight import check_export, check_same_step, check_shardable, check_sources, check_targets
from train.state import DevScore, Run, restore
from train.teachers.teacher_vectors import load_teachers
from train.tracking.make_tracker import make_tracker
from train.tracking.metrics_file import MetricsFile
from train.tracking.tracker import Tracker

_log = logging.getLogger(__name__)


def open_folder(config: TrainConfig, accelerator: Accelerator) -> RunFolder:
    """The run folder, locked by the main process."""
    if accelerator.is_main_process:
        return RunFolder.claim(config.output_dir)
    return RunFolder(Path(config.output_dir))


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
    engine = choose_engine(accelerator)
    check_shardable(engine, config)
    check_targets(config, folder)
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
        token_source=known,
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
    check_same_step(0 if checkpoint is None else checkpoint.step, folder, accelerator)
    return checkpoint


def _learner(config: TrainConfig, encoder: Encoder, accelerator: Accelerator, steps: int) -> Learner:
    """The wrapped model with its temperature and what steps both under this engine."""
    model = wrap(encoder.embedder, accelerator)
    if config.batch.unpadded:
        leave_out_padding(model)
    temperature = run_temperature(config).to(encoder.device)
    return Learner(model, temperature, make_optimizer(model, temperature, config.optim), steps)


def _trainable(config: TrainConfig, engine: type[Engine]) -> Encoder:
    """The base with weights to tune, in training mode, once nothing about it is left to refuse."""
    torch.manual_seed(config.seed)
    encoder = load_base(config.model, engine.loading_config(config.model))
    if config.export.model:
        check_export(encoder)
    make_trainable(encoder.embedder, engine.adapters(config.lora))
    encoder.embedder.train()
    check_sources(config, encoder)
    return encoder


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
        if config.checkpoint.resume == "fresh":
            folder.start_anew()
        folder.write_config(dump(config))
        MetricsFile(folder.metrics).truncate_after(step)
    return make_tracker(config.tracking, folder.path, dataclasses.asdict(config), accelerator.is_main_process)


def total_steps(config: TrainConfig, sampler: Sampler) -> int:
    """`optim.steps`, or the steps of `optim.epochs`."""
    if config.optim.steps is not None:
        return config.optim.steps
    return max(1, math.ceil(config.optim.epochs * sampler.steps_per_epoch))


def _run_hash(config: TrainConfig, data: TrainingData) -> str:
    """A checkpoint belongs to one configuration and one data content."""
    options = config_hash(config, exclude=RESUMABLE_CHANGES)
    return hashlib.sha256(f"{options} {data.sizes} {data.content_hash}".encode()).hexdigest()
