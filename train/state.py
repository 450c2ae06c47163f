"""What a run is made of on one rank, and how it is saved and restored."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import torch

from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from train.adapters.lora import load_trainable, trainable_parameters
from train.checkpointing.checkpoint import Checkpoint, prune, save_checkpoint
from train.checkpointing.identity import Identity
from train.checkpointing.optimizer_state import optimizer_tensors, restore_optimizer
from train.checkpointing.run_folder import RunFolder
from train.config import TrainConfig
from train.data.dataset import TrainingData
from train.data.sampler import Sampler
from train.data.token_cache import TokenCache
from train.judge import Judge
from train.mining.refresh import Refreshed
from train.optim import FIRST, SMALLEST, Learner, LossScale
from train.teachers.teacher_vectors import TeacherVectors
from train.tracking.metrics_file import MetricsFile
from train.tracking.tracker import Tracker

OnBest = Callable[[int, float], None]
"""Called with a step and its dev score, once the checkpoint of the step is written."""
OnMetrics = Callable[[int, Mapping[str, float]], object]
"""Called with the number of finished steps, and figures by name as in `metrics.jsonl`."""


@dataclass(frozen=True)
class Listeners:
    """What a caller of a run wants to hear of it. Only the main process tells it."""

    on_step: OnMetrics | None = None
    """Called after each step."""
    on_dev: OnMetrics | None = None
    """Called after each dev evaluation."""
    tell: Callable[[str], object] | None = None
    """Takes the lines that say what the run has made; None writes them to standard output."""
    progress: bool = True
    """Whether the run shows how far it is."""

    def __post_init__(self) -> None:
        for name, listener in (("on_step", self.on_step), ("on_dev", self.on_dev)):
            problem = None if listener is None else _why_not_called(listener)
            if problem is not None:
                raise UserError(f"{name}: {problem}")


def _why_not_called(listener: object) -> str | None:
    """Why a listener would fail, or do nothing, when it is called with a step and its figures; None if it would not."""
    if not callable(listener):
        return f"{listener!r} can't be called; give a function of a step and its figures"
    shown = getattr(listener, "__name__", type(listener).__name__)
    for called in (listener, type(listener).__call__):
        if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
            return f"{shown} is async, and nothing would await it; give a plain function"
        if inspect.isgeneratorfunction(called):
            return f"{shown} has a yield, so that a call would not run it; give a function without one"
    try:
        signature = inspect.signature(listener)
    except (TypeError, ValueError):  # some functions in C have none
        return None
    try:
        signature.bind(0, {})
    except TypeError as error:
        call = f"{shown}{signature} is called with two arguments, a step and its figures ({error})"
        return f"{call}; write it as f(step, figures)"
    return None


@dataclass
class TrainState:
    """What a resumed run needs besides weights and optimizer: data order and dropout follow from `step`."""

    step: int = 0
    bad_steps: int = 0
    """Steps without a finite loss and gradient since the last good step."""
    skipped_steps: int = 0
    best_step: int | None = None
    best_score: float | None = None
    loss_scale: float = FIRST
    """Of float16 autocast; without it, it is not used."""
    steps_at_scale: int = 0
    """Steps in a row without an overflow at this scale."""
    chunk_tokens: int | None = None
    """At most so many tokens are in a chunk, where memory has decided, so that a resumed run has the same chunks."""
    knows_siblings: bool = True
    """Whether no step took a right answer in another row for a negative, as steps of earlier versions did."""
    worse_scores: int = 0
    """Dev evaluations in a row without a new best score."""

    knows_windows: bool = True
    """Whether streamed rows came in windows in all steps, as they did not in earlier versions."""

    def take(self, saved: Mapping[str, object]) -> None:
        """Continue from what a checkpoint holds."""
        self.knows_siblings = self.knows_windows = False
        for name, value in saved.items():
            setattr(self, name, value)

    @property
    def may_overflow(self) -> bool:
        """Whether a smaller loss scale may help a step whose gradients are not finite."""
        return self.loss_scale > SMALLEST

    def note_scaled_step(self, *, overflowed: bool) -> None:
        """Set the loss scale of the next step."""
        scale = LossScale(self.loss_scale, self.steps_at_scale).after(overflowed=overflowed)
        self.loss_scale, self.steps_at_scale = scale.value, scale.good_steps

    def note_score(self, score: float) -> bool:
        """Remember the dev score of the present step if it is the best so far, and return whether it is.

        Of equal scores the first stays the best; nan is never the best.
        """
        is_best = not math.isnan(score) and (self.best_score is None or score > self.best_score)
        if is_best:
            self.best_score, self.best_step = score, self.step
        self.worse_scores = 0 if is_best else self.worse_scores + 1
        return is_best


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
    judge: Judge | None
    tracker: Tracker
    metrics: MetricsFile
    identity: Identity
    rank: int
    world: int
    state: TrainState = field(default_factory=TrainState)
    token_source: TokenCache | None = None
    """Token ids of the training texts, if they were made before the first step."""
    refreshed: Refreshed | None = None
    """The data with negatives that are mined while training, with `mining.every`."""
    listeners: Listeners = field(default_factory=Listeners)

    @property
    def is_main(self) -> bool:
        """Only the main process logs and writes; it also evaluates, alone unless passes are collective."""
        return self.rank == 0

    @property
    def is_out_of_patience(self) -> bool:
        """Whether `eval.patience` ends the run at this step."""
        patience = self.config.eval.patience
        return patience is not None and self.state.worse_scores >= patience

    def log(self, metrics: Mapping[str, float]) -> None:
        """Write metrics of the last finished step to `metrics.jsonl` and to the tracker."""
        self.metrics.append(metrics, self.state.step)
        self.tracker.log(metrics, self.state.step)


def save(run: Run) -> None:
    """Write a checkpoint of the finished step on the main process, with whole tensors, and remove old ones."""
    trained = trained_tensors(run)
    moments = optimizer_tensors(run.learner.optimizer, list(trained))
    trained, moments = (run.learner.model.whole_on_main(tensors, is_main=run.is_main) for tensors in (trained, moments))
    if not run.is_main:
        return
    run.metrics.sync()
    save_checkpoint(
        run.folder.checkpoints,
        run.state.step,
        trained,
        moments,
        asdict(run.state),
        run.identity,
    )
    drop_old_checkpoints(run)


def drop_old_checkpoints(run: Run) -> None:
    """Keep the newest checkpoints and the best one. Also called at the end, in case a kill came after a save."""
    if not run.is_main:
        return
    best = run.state.best_step
    protect = None if best is None else run.folder.checkpoints / f"step-{best:06d}"
    prune(run.folder.checkpoints, run.config.checkpoint.keep, protect)


def restore(run: Run, checkpoint: Checkpoint, *, optimizer: bool = True) -> None:
    """Set the weights, and unless `optimizer` is False also optimizer and state, to those of the checkpoint."""
    tensors = dict(checkpoint.tensors)
    if run.learner.temperature.log_value.requires_grad:
        with torch.no_grad():
            run.learner.temperature.log_value.copy_(tensors.pop("log_temperature"))
    if run.learner.projection is not None:
        with torch.no_grad():
            run.learner.projection.weight.copy_(tensors.pop("projection"))
    load_trainable(run.learner.model, tensors)
    if optimizer:
        restore_optimizer(run.learner.optimizer, list(trained_tensors(run)), checkpoint.optimizer)
        run.state.take(checkpoint.state)


def trained_tensors(run: Run) -> dict[str, torch.Tensor]:
    """Trained tensors in the optimizer's order; detached, they would not know their shards under ZeRO-3."""
    tensors: dict[str, torch.Tensor] = {**trainable_parameters(run.encoder.embedder)}
    if run.learner.temperature.log_value.requires_grad:
        tensors["log_temperature"] = run.learner.temperature.log_value.detach()
    if run.learner.projection is not None:
        tensors["projection"] = run.learner.projection.weight.detach()
    return tensors
