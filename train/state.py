"""What a run is made of on one rank, and how it is saved and restored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import torch

from dec2vec.encoder import Encoder
from train.adapters.lora import load_trainable, trainable_parameters
from train.checkpointing.checkpoint import Checkpoint, prune, save_checkpoint
from train.checkpointing.optimizer_state import optimizer_tensors, restore_optimizer
from train.checkpointing.run_folder import RunFolder
from train.config import TrainConfig
from train.data.dataset import TrainingData
from train.data.prompted_input import TokenSource
from train.data.sampler import Sampler
from train.distributed.sharded import is_sharded, whole_on_main
from train.mining.refresh import Refreshed
from train.optim import Learner
from train.teachers.teacher_vectors import TeacherVectors
from train.tracking.metrics_file import MetricsFile
from train.tracking.tracker import Tracker

DevScore = Callable[[Encoder], float]
OnBest = Callable[[int, float], None]
"""Told of a step and its dev score, once its checkpoint is written."""
DEV_METRIC = "dev_spearman"


@dataclass
class TrainState:
    """All that a resumed run needs beside weights and optimiser: data order and dropout follow from `step`."""

    step: int = 0
    bad_steps: int = 0
    """Non-finite steps since the last good one."""
    skipped_steps: int = 0
    best_step: int | None = None
    best_score: float | None = None

    def better(self, score: float) -> bool:
        """Whether `score` beats the best so far; the first of equals stays, and nan beats nothing."""
        return not math.isnan(score) and (self.best_score is None or score > self.best_score)


@dataclass(frozen=True)
class Run:
    """One training run on one rank."""

    config: TrainConfig
    folder: RunFolder
    encoder: Encoder
    learner: Learner
    data: TrainingData
    teachers: Mapping[str, TeacherVectors]
    sampler: Sampler
    dev_score: DevScore | None
    tracker: Tracker
    metrics: MetricsFile
    config_hash: str
    rank: int
    world: int
    state: TrainState = field(default_factory=TrainState)
    known: TokenSource | None = None
    """Token ids of the training texts, where they were made beforehand."""
    refreshed: Refreshed | None = None
    """The data with negatives that follow the model, where these are asked for."""

    @property
    def is_main(self) -> bool:
        """Only the main process logs and writes, and evaluates unless weights are sharded."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether passes and checkpoints need every process."""
        return is_sharded(self.learner.model)


def save(run: Run) -> None:
    """Write a checkpoint of the finished step, whole whatever the engine (main process), and drop the old ones."""
    moments = optimizer_tensors(run.learner.optimizer, list(trained_tensors(run)))
    trained, moments = (whole_on_main(tensors, is_main=run.is_main) for tensors in (trained_tensors(run), moments))
    if not run.is_main:
        return
    run.metrics.sync()
    save_checkpoint(
        run.folder.checkpoints,
        run.state.step,
        trained,
        moments,
        asdict(run.state),
        run.config_hash,
    )
    drop_old_checkpoints(run)


def drop_old_checkpoints(run: Run) -> None:
    """Keep the newest checkpoints and the best; at the end too, should a kill have come between saving and this."""
    if not run.is_main:
        return
    best = run.state.best_step
    protect = None if best is None else run.folder.checkpoints / f"step-{best:06d}"
    prune(run.folder.checkpoints, run.config.checkpoint.keep, protect)


def restore(run: Run, checkpoint: Checkpoint, *, optimizer: bool = True) -> None:
    """Put weights (and optimiser and state) back to where the checkpoint was written."""
    tensors = dict(checkpoint.tensors)
    if run.learner.temperature.log_value.requires_grad:
        with torch.no_grad():
            run.learner.temperature.log_value.copy_(tensors.pop("log_temperature"))
    load_trainable(run.encoder.embedder, tensors)
    if optimizer:
        restore_optimizer(run.learner.optimizer, list(trained_tensors(run)), checkpoint.optimizer)
        for name, value in checkpoint.state.items():
            setattr(run.state, name, value)


def trained_tensors(run: Run) -> dict[str, torch.Tensor]:
    """Trained tensors in the optimiser's order, themselves: a detached one doesn't know its shards under ZeRO-3."""
    tensors: dict[str, torch.Tensor] = {**trainable_parameters(run.encoder.embedder)}
    if run.learner.temperature.log_value.requires_grad:
        tensors["log_temperature"] = run.learner.temperature.log_value.detach()
    return tensors
