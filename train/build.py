"""From a configuration to a run: sampler, encoder, learner, teachers, token ids."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from dec2vec.config.load import config_hash, dump
from dec2vec.config.model import ModelConfig
from dec2vec.decoder.model_digest import model_digest
from dec2vec.decoder.start import find_adapter, find_start
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.files.dev_record import DevRecord, write_record
from train.adapters.capabilities import leave_out_padding
from train.adapters.lora import make_trainable
from train.adapters.projection import Projection, add_projection, initial_projection, train_kept
from train.checkpointing.checkpoint import Checkpoint, latest_checkpoint
from train.checkpointing.identity import PUBLISHED_BASE, Identity
from train.checkpointing.run_folder import RunFolder
from train.config import RESUMABLE_CHANGES, TrainConfig
from train.data import report as data_report
from train.data.dataset import TrainingData
from train.data.held_out import texts_left_out
from train.data.make_sampler import make_sampler
from train.data.prompted_input import check_token_rows
from train.data.sampler import Sampler
from train.data.token_cache import known_tokens
from train.distributed.collectives import is_first_process
from train.distributed.engine import choose_engine, wrap
from train.distributed.interface import Engine
from train.export.save import check_form
from train.export.staging import has_quantized_base
from train.judge import Judge
from train.losses.matryoshka import check_width
from train.losses.per_source import projected_loss, run_temperature, used_losses
from train.mining.refresh import make_refreshed
from train.optim import Learner, make_optimizer
from train.preflight import check_disk, check_folder, check_model, check_same_step
from train.state import Run, restore
from train.teachers.teacher_vectors import TeacherVectors, load_teachers
from train.tracking.make_tracker import make_tracker
from train.tracking.metrics_file import MetricsFile
from train.tracking.tracker import Tracker
from train.warm_start import adapter_folder, note_adapter, note_what_is_taken

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
    judge: Judge | None,
    contents: Mapping[str, str],
) -> Run:
    """Build the run, and restore its latest checkpoint if there is one.

    `contents` has by option the sha256 of what only the caller has read, such as that of `eval.dev`.
    Whatever may be refused comes before `_take_over`, so that a refused run leaves the folder as it was.
    """
    engine = choose_engine(accelerator)
    check_folder(config, engine, folder)
    identity = _identity(config, data, contents)
    checkpoint = _resumed_checkpoint(identity, folder, accelerator)
    sampler = make_sampler(config, data)
    steps = total_steps(config, sampler)
    refreshed = make_refreshed(config, data, folder, sampler, is_main=accelerator.is_main_process, stop=steps)
    encoder = _load_trainable(config, data, engine)
    if accelerator.is_main_process and (checkpoint is None or checkpoint.step < steps):
        check_disk(config, encoder, folder)
    teachers = load_teachers(config, data, folder.path / "teachers", _drawn_rows(config, data, sampler, steps))
    learner = _make_learner(config, encoder, accelerator, steps, make_projection(config, encoder, teachers))
    token_source = known_tokens(config, data, encoder, folder.tokens, steps)
    report = data_report.describe(data, sampler, encoder) if accelerator.is_main_process else None

    run = Run(
        config=config,
        folder=folder,
        encoder=encoder,
        learner=learner,
        data=data,
        teachers=teachers,
        sampler=sampler,
        judge=judge,
        tracker=_take_over(config, folder, accelerator, checkpoint),
        metrics=MetricsFile(folder.metrics, accelerator.is_main_process),
        identity=identity,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        token_source=token_source,
        refreshed=refreshed,
    )
    _write_records(report, run)
    if checkpoint is not None:
        _resume(run, checkpoint)
    return run


def _write_records(report: dict[str, Any] | None, run: Run) -> None:
    """The data's to data.json, with its lines to the log, and that of dev. Only the main process has a report."""
    if report is None:
        return
    choosers = [] if run.judge is None else run.judge.choosers
    write_record(DevRecord.of_texts(choosers, texts_left_out(run.data)), run.folder.path)
    data_report.write(report, run.folder.data)
    _log.info("%s", "\n".join(data_report.lines(report)))


def load_base(config: ModelConfig, place: ModelConfig | None = None, *, trains_adapter: bool = False) -> Encoder:
    """The encoder before training, which takes texts in its prompt (there is an EOS token, and room for a text).

    It is read as `config` says, even if the base is an exported folder with settings of its own; a published embedder
    keeps its ending and its Dense layers. `place` is `config` with another device for the weights. With
    `trains_adapter` the adapter of `model.adapter` is left to `make_trainable`.
    """
    start = find_start(config)
    name, revision = start.base.name_or_path, start.base.revision
    base = dataclasses.replace(start.config if place is None else place, name_or_path=name, revision=revision)
    if trains_adapter:
        start = dataclasses.replace(start, adapter=None)
    encoder = Encoder.from_start(dataclasses.replace(start, base=base))
    encoder.tokenize(["a"])
    return encoder


def total_steps(config: TrainConfig, sampler: Sampler) -> int:
    """`optim.steps`, or the steps of `optim.epochs`."""
    if config.optim.steps is not None:
        return config.optim.steps
    return max(1, math.ceil(config.optim.epochs * sampler.steps_per_epoch))


def _drawn_rows(config: TrainConfig, data: TrainingData, sampler: Sampler, steps: int) -> list[int] | None:
    """The data rows of all steps in ascending order; None if they are about all rows, or if mining adds others."""
    if config.mining.every is not None or steps * config.batch.size >= 4 * len(data):
        return None
    rows: list[int] = np.unique(np.concatenate([sampler.rows(step) for step in range(steps)])).tolist()
    return rows


def _identity(config: TrainConfig, data: TrainingData, contents: Mapping[str, str]) -> Identity:
    """A checkpoint belongs to one configuration and to one content of what it names."""
    options = config_hash(config, exclude=RESUMABLE_CHANGES)
    former = hashlib.sha256(f"{options} {data.sizes} {data.content_hash}".encode()).hexdigest()
    sources = {
        f"data.{number}.{name}": sha256
        for number, sha256 in enumerate(data.source_hashes)
        for name in ("path", "corpus", "queries")
        if getattr(config.data[number], name) is not None
    }
    digests = {name: model_digest(name) for name in dict.fromkeys(_models(config).values())}
    models = {option: digest for option, name in _models(config).items() if (digest := digests[name]) is not None}
    adapter = find_adapter(config.model)
    if adapter is not None:
        models["model.adapter"] = adapter.digest
    return Identity(former, config, {**sources, **models, **_published_reading(config.model), **contents})


def _published_reading(config: ModelConfig) -> dict[str, str]:
    """The sha256 of how a published base reads texts; empty for other decoders."""
    published = find_start(config).published
    if published is None:
        return {}
    reading = json.dumps(published.reading.as_json(), sort_keys=True)
    return {PUBLISHED_BASE: hashlib.sha256(reading.encode("utf-8", "surrogatepass")).hexdigest()}


def _models(config: TrainConfig) -> dict[str, str]:
    """By option, the decoder and the teachers."""
    named = {"model.name_or_path": config.model.name_or_path, "loss.teacher": config.loss.teacher}
    for number, source in enumerate(config.data):
        named |= {f"data.{number}.losses.{at}.teacher": loss.teacher for at, loss in enumerate(source.losses)}
    return {option: name for option, name in named.items() if name is not None}


def _resumed_checkpoint(identity: Identity, folder: RunFolder, accelerator: Accelerator) -> Checkpoint | None:
    """The latest checkpoint, the same on all ranks; None if the run starts at its first step."""
    resumes = identity.config.checkpoint.resume == "auto"
    checkpoint = latest_checkpoint(folder.checkpoints, identity) if resumes else None
    check_same_step(0 if checkpoint is None else checkpoint.step, folder, accelerator)
    return checkpoint


def _load_trainable(config: TrainConfig, data: TrainingData, engine: type[Engine]) -> Encoder:
    """The base with weights to train, in training mode."""
    torch.manual_seed(config.seed)
    encoder = load_base(config.model, engine.loading_config(config.model), trains_adapter=True)
    check_model(config, encoder)
    if is_first_process():
        note_what_is_taken(encoder)
        note_adapter(config)
    check_token_rows(data, encoder)
    make_trainable(encoder.embedder, engine.adapters(config.lora), adapter_folder(config.model))
    if config.export.model:
        check_form(encoder.embedder.backbone, merge=config.export.merge or has_quantized_base(encoder))
    encoder.embedder.train()
    return encoder


def make_projection(config: TrainConfig, encoder: Encoder, teachers: Mapping[str, TeacherVectors]) -> Projection | None:
    """The projection to the teacher's dimensions that only the loss uses; one that is kept becomes part of the model.

    None without one. UserError if vectors are compared without a projection and have another length.
    """
    loss = projected_loss(config)
    if loss is None or loss.teacher is None:
        return None
    own, theirs = encoder.dimension, teachers[loss.teacher].dimension
    if loss.projection == "none":
        if own != theirs:
            raise UserError(
                f"loss.projection none: the model's vectors have {own} dimensions and the teacher's {theirs}; use drop "
                "or keep"
            )
        return None
    weight = initial_projection(own, theirs, config.seed)
    if loss.projection == "drop":
        return Projection(weight)
    published = 0 if encoder.published is None else len(encoder.published.steps)
    if not train_kept(encoder.embedder, published, theirs):
        add_projection(encoder.embedder, weight, config.optim.lr)
    for used in used_losses(config):
        check_width(used, encoder.dimension)
    return None


def _make_learner(
    config: TrainConfig, encoder: Encoder, accelerator: Accelerator, steps: int, projection: Projection | None
) -> Learner:
    """The wrapped model with its temperature and projection, and the optimizer of all of them."""
    model = wrap(encoder.embedder, accelerator)
    if config.batch.unpadded:
        leave_out_padding(model)
    temperature = run_temperature(config).to(encoder.device)
    projection = projection if projection is None else projection.to(encoder.device)
    optimizer = make_optimizer(model, temperature, config.optim, projection)
    return Learner(model, temperature, optimizer, steps, projection)


def _take_over(
    config: TrainConfig, folder: RunFolder, accelerator: Accelerator, checkpoint: Checkpoint | None
) -> Tracker:
    """Make the folder that of this run, and start the tracker.

    Metrics of steps after the checkpoint, which a killed run has logged, are dropped: these steps are repeated.
    """
    if accelerator.is_main_process:
        if config.checkpoint.resume == "fresh":
            folder.start_anew()
        folder.write_config(dump(config))
        MetricsFile(folder.metrics).truncate_after(0 if checkpoint is None else checkpoint.step)
    return make_tracker(config.tracking, folder.path, dataclasses.asdict(config), accelerator.is_main_process)


def _resume(run: Run, checkpoint: Checkpoint) -> None:
    restore(run, checkpoint)
    if run.is_main:
        _log.info("resumed at step %d of %d from %s", checkpoint.step, run.learner.total_steps, checkpoint.path)
