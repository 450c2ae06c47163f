"""From a configuration to a run that can be stepped, and from a trained run to the folders it leaves."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel

from dec2vec.artifacts import find
from dec2vec.backbone import pinned_revision, resolve_device, use_autocast
from dec2vec.config import config_hash, dump
from dec2vec.embedder import Embedder
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.model_config import LOGIT_POOLINGS, ModelConfig
from dec2vec.prompts import get_prompt
from train.checkpoint import latest_checkpoint, load_checkpoint
from train.config import TrainConfig
from train.data import PairTable
from train.distributed import gather_rows
from train.export import check_replaceable
from train.export_modules import check_exportable
from train.export_tokenizer import save_tokenizer
from train.gradcache import Model
from train.loop import DevScore, Run, restore
from train.lora import make_trainable
from train.losses.checks import check_loss
from train.losses.matryoshka import check_width
from train.metrics_file import MetricsFile
from train.rows import PairRows
from train.run_folder import RunFolder
from train.sampler import Mixed, OneSource, Sampler
from train.step import Learner, make_optimizer
from train.temperature import Temperature
from train.tracking import Tracker, make_tracker

RESUMABLE_CHANGES = (
    "checkpoint",
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
    if config.model.pooling in LOGIT_POOLINGS:
        raise UserError(f"model.pooling {config.model.pooling}: for encoding and evaluation only; train with last")
    for source in config.data:
        check_loss(config.loss, PairRows, source.path)
    if config.export.model:
        _check_prompt(config.model)
    device = resolve_device(config.model.device)
    model = dataclasses.replace(
        config.model,
        device="cuda" if device.type == "cuda" else "cpu",
        autocast="on" if use_autocast(config.model.autocast, device) else "off",
        name_or_path=_absolute(config.model.name_or_path),
        revision=pinned_revision(config.model),
    )
    data = tuple(dataclasses.replace(source, path=_absolute(source.path)) for source in config.data)
    dev = None if config.eval.dev is None else _absolute(config.eval.dev)
    tests = tuple(_absolute(path) for path in config.eval.tests)
    return dataclasses.replace(
        config, model=model, data=data, eval=dataclasses.replace(config.eval, dev=dev, tests=tests)
    )


def open_folder(config: TrainConfig, accelerator: Accelerator) -> RunFolder:
    """The run folder, locked by the main process."""
    if accelerator.is_main_process:
        return RunFolder.claim(config.output_dir)
    return RunFolder(Path(config.output_dir))


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate decides processes and devices; precision stays ours, so that evaluation computes the same."""
    return Accelerator(cpu=config.model.device == "cpu", mixed_precision="no")


def leave(accelerator: Accelerator) -> None:
    """End the process group, without a barrier: the main process may have evaluated for hours.

    The wrapped model must go first. DDP's C++ reducer, as the last owner of a Gloo group, joins its threads while
    holding the GIL, which one of them may be waiting for (PyTorch issue 56297; hung in 1 of some 50 runs).
    """
    accelerator.free_memory()
    accelerator.end_training()


def wrap(embedder: Embedder, accelerator: Accelerator) -> Model:
    """The module whose backward sums over ranks; the embedder itself in a single process."""
    model: Model = accelerator.prepare_model(embedder)
    if isinstance(model, DistributedDataParallel):
        model.broadcast_buffers = False  # the same on every rank; as an argument it is deprecated since torch 2.13
    return model


def build(
    config: TrainConfig,
    table: PairTable,
    accelerator: Accelerator,
    folder: RunFolder,
    dev_score: DevScore | None,
) -> Run:
    """Load, adapt and wrap the model, and go on from the newest checkpoint if there is one.

    Whatever may be refused comes before the tracker, with which the run takes over the folder.
    """
    _check_targets(config, folder)
    hashed = _run_hash(config, table)
    sampler = make_sampler(config, table)
    resumes = config.checkpoint.resume == "auto"
    checkpoint = latest_checkpoint(folder.checkpoints, hashed) if resumes else None
    _same_on_all_ranks(0 if checkpoint is None else checkpoint.step, folder, accelerator)
    torch.manual_seed(config.seed)
    encoder = load_base(config.model)
    if config.loss.matryoshka:
        check_width(config.loss, encoder.dimension)
    if config.export.model:
        check_export(encoder)
    make_trainable(encoder.embedder, config.lora)
    encoder.embedder.train()
    model = wrap(encoder.embedder, accelerator)
    temperature = Temperature(config.loss.temperature, learned=config.loss.learn_temperature).to(encoder.device)
    optimizer = make_optimizer(encoder.embedder, temperature, config.optim)
    run = Run(
        config=config,
        folder=folder,
        encoder=encoder,
        learner=Learner(model, temperature, optimizer, total_steps(config, sampler)),
        table=table,
        sampler=sampler,
        dev_score=dev_score,
        tracker=_tracker(config, folder, accelerator, 0 if checkpoint is None else checkpoint.step),
        metrics=MetricsFile(folder.metrics, accelerator.is_main_process),
        config_hash=hashed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    if checkpoint is not None:
        restore(run, checkpoint)
    return run


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


def load_base(config: ModelConfig) -> Encoder:
    """The encoder before training, found to take texts in its prompt (EOS, room) before the first step needs it.

    It is read as `config` says, also where the base is an exported folder that brings a reading of its own.
    """
    artifact = find(config)
    if artifact is not None and artifact.adapter is not None:
        raise UserError(
            f"model.name_or_path {config.name_or_path}: has an adapter already; to train on, make a whole model of it "
            "with dec2vec export RUN --to DIR --merge, and name DIR"
        )
    found = config if artifact is None else artifact.base
    base = dataclasses.replace(config, name_or_path=found.name_or_path, revision=found.revision)
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


def take_best(run: Run) -> None:
    """The weights of the step that scored best on dev, or the last ones without a dev file."""
    best = run.state.best_step
    if best is not None and best != run.state.step:
        path = run.folder.checkpoints / f"step-{best:06d}"
        restore(run, load_checkpoint(path, run.config_hash), optimizer=False)
    run.encoder.embedder.eval()


def make_sampler(config: TrainConfig, table: PairTable) -> Sampler:
    """The order of the data; batches that cannot be drawn are refused."""
    sampler = _one_source(config, table) if config.batch.sources == "one" else _mixed(config, table)
    sampler.rows(0)  # refuses a batch larger than the data
    return sampler


def _mixed(config: TrainConfig, table: PairTable) -> Mixed:
    weighted = next((i for i, source in enumerate(config.data) if source.weight is not None), None)
    if weighted is not None:
        raise UserError(f"data.{weighted}.weight: only batches of one source have weights; add --batch.sources one")
    return Mixed(len(table), config.batch.size, config.seed)


def _one_source(config: TrainConfig, table: PairTable) -> OneSource:
    if config.batch.size > max(table.sizes):
        raise UserError(
            f"batch.size {config.batch.size} is larger than every source (the largest has {max(table.sizes)} pairs); "
            f"use --batch.size {max(table.sizes)} or less"
        )
    for i, (size, source) in enumerate(zip(table.sizes, config.data, strict=True)):
        if size < 2:
            raise UserError(f"data.{i} ({source.path}): {size} pair; a batch of one source needs at least two")
    weights = [source.weight or size for source, size in zip(config.data, table.sizes, strict=True)]
    return OneSource(table.sizes, tuple(map(float, weights)), config.batch.size, config.seed)


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


def _run_hash(config: TrainConfig, table: PairTable) -> str:
    """A checkpoint belongs to one configuration and one data content."""
    options = config_hash(config, exclude=RESUMABLE_CHANGES)
    return hashlib.sha256(f"{options} {table.sizes} {table.content_hash}".encode()).hexdigest()


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
