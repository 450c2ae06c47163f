"""The training loop: steps, and between them metrics, dev evaluations, checkpoints and interruptions."""

from __future__ import annotations

import logging
import math
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

import torch

from dec2vec.denormals import flushed
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from train.adapters.capabilities import why_not_shared
from train.adapters.lora import load_trainable, trainable_parameters
from train.checkpointing.checkpoint import Checkpoint, prune, save_checkpoint
from train.checkpointing.interrupts import Interrupts
from train.checkpointing.optimizer_state import optimizer_tensors, restore_optimizer
from train.checkpointing.run_folder import RunFolder
from train.config import TrainConfig
from train.data.batch import LocalBatch, prepare
from train.data.dataset import TrainingData
from train.data.prefetch import Prefetch
from train.data.prompted_input import KnownIds
from train.data.sampler import Sampler
from train.distributed.collectives import from_main, sum_over_ranks
from train.distributed.deepspeed import DeepSpeedAdamW
from train.distributed.diverged_ranks import check_drift
from train.distributed.sharded import is_sharded, whole_on_main
from train.gradcache.memory import affordable_tokens, chunk_budget
from train.mining.refresh import Refreshed
from train.pace import pace
from train.step import Learner, StepResult, any_rank, train_step
from train.teachers.teacher_vectors import TeacherVectors
from train.tracking.metrics_file import MetricsFile
from train.tracking.progress import Progress
from train.tracking.tracker import Tracker

_log = logging.getLogger(__name__)
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
    known: KnownIds | None = None
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


def fit(run: Run, progress: Progress, on_best: OnBest | None = None) -> TrainState:
    """Train from `run.state.step` to the end; leaves by KeyboardInterrupt, after a checkpoint, when signalled."""
    config, state = run.config, run.state
    graph_tokens: int | None = None if config.batch.graph_tokens == "auto" else config.batch.graph_tokens
    if run.is_main and config.batch.share_prefix and (reason := why_not_shared(run.encoder.embedder)) is not None:
        _log.info("what all texts of a step begin with is computed anew for each: %s", reason)
    batches = Prefetch(partial(_local_batch, run), run.learner.total_steps, ahead=config.batch.prefetch)
    if run.refreshed is not None:
        run.refreshed.resume(state.step)
    with Interrupts() as interrupts, batches:
        while state.step < run.learner.total_steps:
            started = time.monotonic()
            _refresh_if_due(run, batches)
            batch = batches.batch(state.step)
            if graph_tokens is None:
                graph_tokens = affordable_tokens(run.encoder.embedder, batch.chunks[-1])
            with flushed(on=config.batch.flush_denormals):
                result = train_step(
                    run.learner,
                    batch,
                    state.step,
                    config.loss,
                    config.optim,
                    graph_tokens=graph_tokens,
                    seed=config.seed,
                    parallel=config.batch.parallel_chunks,
                )
            state.step += 1
            _count_bad_steps(run, result)
            pairs = _record_step(run, batch, result, started)
            progress.advance(result.loss, pairs)
            if _evaluation_due(run):
                batches.settle()
            improved = _evaluate_if_due(run, progress)
            stop = any_rank(bool(interrupts), run.encoder.device)
            _keep(run, improved=improved, stop=stop)
            if improved and on_best is not None and state.best_score is not None:
                on_best(state.step, state.best_score)
            if stop:
                progress.note(f"stopped at step {state.step}; the same command goes on from there")
                raise KeyboardInterrupt
    _drop_old(run)
    return state


def _refresh_if_due(run: Run, batches: Prefetch) -> None:
    """Search the negatives anew with the model as it is; batches made ahead with the old ones are dropped."""
    if run.refreshed is not None and run.refreshed.due(run.state.step):
        batches.forget()
        run.refreshed.search(run.encoder, run.state.step)


def _keep(run: Run, *, improved: bool, stop: bool) -> None:
    """A checkpoint where one is due, and before it a look whether all ranks hold the same."""
    if isinstance(run.learner.optimizer, DeepSpeedAdamW):  # its moments are gathered by all, one alone saw the score
        improved = any_rank(improved, run.encoder.device)
    if _comparison_due(run) or stop:
        check_drift(_trained(run), run.state.step)
    if _checkpoint_due(run) or improved or stop:
        save(run)


def save(run: Run) -> None:
    """Write a checkpoint of the finished step, whole whatever the engine (main process), and drop the old ones."""
    moments = optimizer_tensors(run.learner.optimizer, list(_trained(run)))
    trained, moments = (whole_on_main(tensors, is_main=run.is_main) for tensors in (_trained(run), moments))
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
    _drop_old(run)


def _drop_old(run: Run) -> None:
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
        restore_optimizer(run.learner.optimizer, list(_trained(run)), checkpoint.optimizer)
        for name, value in checkpoint.state.items():
            setattr(run.state, name, value)


def _trained(run: Run) -> dict[str, torch.Tensor]:
    """Trained tensors in the optimiser's order, themselves: a detached one doesn't know its shards under ZeRO-3."""
    tensors: dict[str, torch.Tensor] = {**trainable_parameters(run.encoder.embedder)}
    if run.learner.temperature.log_value.requires_grad:
        tensors["log_temperature"] = run.learner.temperature.log_value.detach()
    return tensors


def _local_batch(run: Run, step: int) -> LocalBatch:
    options = run.config.batch
    return prepare(
        run.data if run.refreshed is None else run.refreshed.data,
        run.sampler.rows(step),
        run.encoder,
        chunk_budget(options.chunk_tokens, run.encoder.device),
        rank=run.rank,
        world=run.world,
        share_prefix=options.share_prefix,
        losses=(run.config.loss,),
        teachers=run.teachers,
        known=run.known,
    )


def _count_bad_steps(run: Run, result: StepResult) -> None:
    state = run.state
    state.bad_steps = 0 if result.applied else state.bad_steps + 1
    if result.applied:
        return
    state.skipped_steps += 1
    _log.warning("step %d: loss %s, gradient norm %s; skipped", state.step, result.loss, result.grad_norm)
    if state.bad_steps >= run.config.optim.max_bad_steps:
        raise UserError(
            f"{state.bad_steps} steps in a row gave no finite gradient (loss {result.loss}); lower --optim.lr or use "
            f"--model.dtype float32; checkpoints up to the last good one are in {run.folder.checkpoints}"
        )


def _record_step(run: Run, batch: LocalBatch, result: StepResult, started: float) -> int:
    """Log the step; its pairs over all processes."""
    seconds = time.monotonic() - started
    own = [result.embedded_at - started if rank == run.rank else 0.0 for rank in range(run.world)]
    end_to_end = run.encoder.embedder.unpadded and batch.prefix is None
    computed = batch.real_tokens if end_to_end else batch.padded_tokens
    counts = [batch.pairs, batch.real_tokens, computed, *own]
    summed = sum_over_ranks(torch.tensor(counts, dtype=torch.float64, device=run.encoder.device))
    pairs, real, padded, *ranks = summed.tolist()
    if not run.is_main or run.state.step % run.config.tracking.every:
        return int(pairs)
    metrics = {
        "loss": result.loss,
        "lr": result.lr,
        "temperature": result.temperature,
        "grad_norm": result.grad_norm,
        "pairs_per_second": pairs / seconds,
        "tokens_per_second": real / seconds,
        "padding_ratio": padded / real,
        "memory_mib": _peak_memory_mib(run.encoder.device),
        "skipped_steps": float(run.state.skipped_steps),
        **pace(ranks),
    }
    run.metrics.append(metrics, run.state.step)
    run.tracker.log(metrics, run.state.step)
    return int(pairs)


def _evaluate_if_due(run: Run, progress: Progress) -> bool:
    """Score the dev file when its turn has come; whether it is the best so far.

    On the main process alone, unless its passes need the others: then all score, and take the main process's score.
    """
    if run.dev_score is None or not _evaluation_due(run):
        return False
    step = run.state.step
    score = run.dev_score(run.encoder)
    if run.is_sharded:
        score = from_main(score, run.encoder.device)
    better = run.state.better(score)
    if better:
        run.state.best_score, run.state.best_step = score, step
    run.metrics.append({DEV_METRIC: score}, step)
    run.tracker.log({DEV_METRIC: score}, step)
    progress.note(f"step {step}: dev Spearman {100 * score:.2f}{' (best so far)' if better else ''}")
    return better


def _evaluation_due(run: Run) -> bool:
    step = run.state.step
    due = step % run.config.eval.every == 0 or step == run.learner.total_steps
    return due and (run.is_main or run.is_sharded) and run.dev_score is not None


def _checkpoint_due(run: Run) -> bool:
    return run.state.step % run.config.checkpoint.every == 0 or run.state.step == run.learner.total_steps


def _comparison_due(run: Run) -> bool:
    """Also wherever the main process may save, so that no checkpoint holds weights that other ranks don't have."""
    step, config = run.state.step, run.config
    may_be_best = config.eval.dev is not None and step % config.eval.every == 0
    return step % config.distributed.check_every == 0 or may_be_best or _checkpoint_due(run)


def _peak_memory_mib(device: torch.device) -> float:
    """Peak of the allocator on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
