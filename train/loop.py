"""The training loop: steps, and between them metrics, dev evaluations, checkpoints and interruptions."""

from __future__ import annotations

import logging
import time
from functools import partial

from dec2vec.errors import UserError
from dec2vec.runtime import flushed
from train.adapters.capabilities import why_not_shared
from train.checkpointing.interrupts import Interrupts
from train.data.batch import LocalBatch, prepare
from train.data.prefetch import Prefetch
from train.distributed.collectives import from_main
from train.distributed.deepspeed import DeepSpeedAdamW
from train.distributed.diverged_ranks import check_replicas_equal
from train.gradcache.memory import affordable_tokens, chunk_budget
from train.state import DEV_METRIC, OnBest, Run, TrainState, drop_old_checkpoints, save, trained_tensors
from train.step import StepResult, any_rank, train_step
from train.tracking.progress import Progress
from train.tracking.step_metrics import record_step

MAX_BAD_STEPS = 5
"""A run stops after this many consecutive steps without a finite loss and gradient."""
_log = logging.getLogger(__name__)


def fit(run: Run, progress: Progress, on_best: OnBest | None = None) -> TrainState:
    """Train from `run.state.step` to the end; leaves by KeyboardInterrupt, after a checkpoint, when signalled."""
    config, state = run.config, run.state
    graph_tokens: int | None = None if config.batch.graph_tokens == "auto" else config.batch.graph_tokens
    if run.is_main and config.batch.share_prefix and (reason := why_not_shared(run.encoder.embedder)) is not None:
        _log.info("what all texts of a step begin with is computed anew for each: %s", reason)
    batches = Prefetch(partial(_local_batch, run), run.learner.total_steps)
    if run.refreshed is not None:
        run.refreshed.resume(state.step)
    with Interrupts() as interrupts, batches:
        while state.step < run.learner.total_steps:
            started = time.monotonic()
            _refresh_if_due(run, batches)
            batch = batches.batch(state.step)
            if graph_tokens is None:
                graph_tokens = affordable_tokens(run.encoder.embedder, batch.chunks[-1])
            with flushed():
                result = train_step(
                    run.learner,
                    batch,
                    state.step,
                    config.loss,
                    config.optim,
                    graph_tokens=graph_tokens,
                    seed=config.seed,
                    parallel=True,
                )
            state.step += 1
            _count_bad_steps(run, result)
            pairs = record_step(run, batch, result, started)
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
    drop_old_checkpoints(run)
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
        check_replicas_equal(trained_tensors(run), run.state.step)
    if _checkpoint_due(run) or improved or stop:
        save(run)


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
    if state.bad_steps >= MAX_BAD_STEPS:
        raise UserError(
            f"{state.bad_steps} steps in a row gave no finite gradient (loss {result.loss}); lower --optim.lr or use "
            f"--model.dtype float32; checkpoints up to the last good one are in {run.folder.checkpoints}"
        )


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
    return step % config.distributed.compare_every == 0 or may_be_best or _checkpoint_due(run)
