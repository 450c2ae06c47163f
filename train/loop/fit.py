"""The training loop: steps, and between them metrics, dev scores, checkpoints and interruptions."""

from __future__ import annotations

import logging
import math
import time
from functools import partial

import torch

from dec2vec.errors import UserError
from dec2vec.runtime import flushed, is_out_of_memory
from train.checkpointing.interrupts import Interrupts
from train.data.batch import LocalBatch
from train.data.prefetch import Prefetch
from train.distributed.collectives import any_rank, sum_over_ranks
from train.distributed.diverged_ranks import check_replicas_equal
from train.gradcache.graph_budget import GraphBudget
from train.judge import DevClock, agreed, said_beforehand, shared
from train.loop.batches import RunBatches
from train.state import OnBest, Run, TrainState, drop_old_checkpoints, save, trained_tensors
from train.step import StepResult, train_step
from train.tracking.progress import Progress
from train.tracking.step_metrics import StepTotals, step_metrics

MAX_BAD_STEPS = 5
"""A run stops after this many consecutive steps without a finite loss and gradient."""
_log = logging.getLogger(__name__)


def fit(run: Run, progress: Progress, on_best: OnBest | None = None, *, prefetch: bool = True) -> TrainState:
    """Train from `run.state.step` to the end; if signalled, write a checkpoint and raise KeyboardInterrupt.

    `prefetch=False` makes each batch when it is needed, as the reference for tests.
    """
    state = run.state
    budget: GraphBudget | None = None
    batches = RunBatches(run, ahead=prefetch)
    if run.refreshed is not None:
        run.refreshed.resume(state.step)
    if run.is_out_of_patience and state.step < run.learner.total_steps:
        progress.note(f"already stopped early at step {state.step}; a larger eval.patience goes on")
    with Interrupts() as interrupts, batches:
        clock = DevClock()
        while state.step < run.learner.total_steps and not run.is_out_of_patience:
            started = time.monotonic()
            _refresh_negatives_if_due(run, batches)
            batch = batches.batch(state.step)
            _announce_dev(run, batch, batches, progress, clock)
            batch, result, budget = _step(run, batches, batch, budget)
            state.step += 1
            _count_bad_steps(run, result)
            pairs = _log_step(run, batch, result, started)
            progress.advance(result.loss, pairs)
            is_best = _score_dev_if_due(run, batches, progress, clock)
            stop = any_rank(bool(interrupts), run.encoder.device)
            _save_if_due(run, is_best=is_best, stop=stop)
            if is_best and on_best is not None and state.best_score is not None:
                on_best(state.step, state.best_score)
            if stop:
                progress.note(f"stopped at step {state.step}; the same command resumes from there")
                raise KeyboardInterrupt
    _refuse_untrained(run)
    if run.is_main and run.judge is not None and state.best_step is None:
        _log.warning("eval.dev: no dev score was a number, so nothing was chosen: the last weights are exported")
    drop_old_checkpoints(run)
    return state


def _step(
    run: Run, batches: RunBatches, batch: LocalBatch, budget: GraphBudget | None
) -> tuple[LocalBatch, StepResult, GraphBudget]:
    """The next step and its batch. For lack of memory, graphs become fewer, and in the first step chunks smaller."""
    step, learner, is_alone = run.state.step, run.learner, run.world == 1
    while True:
        try:
            budget = budget or GraphBudget(learner.model, batch.chunks, run.config.batch.graph_tokens)
            attempt = partial(_attempt, run, batch, budget)
            return batch, budget.run(attempt, sum(chunk.padded_tokens for chunk in batch.chunks)), budget
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = batches.why_no_memory(step)
        if step or not is_alone or not batches.halve_chunks(batch):
            raise UserError(reason)
        batch = batches.batch(step)


def _attempt(run: Run, batch: LocalBatch, budget: GraphBudget, graph_tokens: int) -> StepResult:
    room = budget.room if budget.is_watched else None
    with flushed():
        return train_step(
            run.learner, batch, run.state.step, run.config, graph_tokens=graph_tokens, room=room, scale=_loss_scale(run)
        )


def _refresh_negatives_if_due(run: Run, batches: Prefetch) -> None:
    """Mine negatives again with the model as it is; batches that were made ahead with the old ones are dropped."""
    if run.refreshed is not None and run.refreshed.due(run.state.step):
        batches.forget()
        run.refreshed.search(run.encoder, run.state.step)


def _loss_scale(run: Run) -> float:
    return run.state.loss_scale if run.encoder.embedder.autocast == torch.float16 else 1.0


def _count_bad_steps(run: Run, result: StepResult) -> None:
    """Count skipped steps. With float16, an overflow is no bad step while the loss scale can be smaller."""
    state = run.state
    scale = _loss_scale(run)
    if run.encoder.embedder.autocast == torch.float16:
        overflowed = not result.applied and state.may_overflow and math.isfinite(result.loss)
        state.note_scaled_step(overflowed=not result.applied)
        if overflowed:
            state.skipped_steps += 1
            _log.warning("step %d: float16 overflowed at a loss scale of %g; skipped", state.step, scale)
            return
    state.bad_steps = 0 if result.applied else state.bad_steps + 1
    if result.applied:
        return
    state.skipped_steps += 1
    _log.warning("step %d: loss %s, gradient norm %s; skipped", state.step, result.loss, result.grad_norm)
    if state.bad_steps >= MAX_BAD_STEPS:
        raise UserError(
            f"{state.bad_steps} consecutive steps had no finite gradient (loss {result.loss}); {_advice(run)}"
        )


def _advice(run: Run) -> str:
    """What may help: more precision where there is less than float32, and a lower rate only after an update."""
    config, state = run.config, run.state
    fixes = ["model.autocast off"] if run.encoder.embedder.autocast is not None else []
    fixes += ["model.dtype float32"] if config.model.dtype != "float32" else []
    if state.skipped_steps < state.step:
        return f"use {' or '.join(['a lower optim.lr', *fixes])}; earlier checkpoints are in {run.folder.checkpoints}"
    if fixes:
        return f"no step has changed the weights yet, so the learning rate is not the cause; use {' or '.join(fixes)}"
    return (
        "no step has changed the weights yet, so the learning rate is not the cause; check the decoder's weights "
        f"(dec2vec check {config.model.name_or_path}) and the texts of the first batches"
    )


def _refuse_untrained(run: Run) -> None:
    """A run whose every step was skipped has nothing to export."""
    if 0 < run.state.step <= run.state.skipped_steps:
        raise UserError(
            f"none of the {run.state.step} steps had a finite gradient, so nothing was trained or exported; "
            f"{_advice(run)}; start anew with checkpoint.resume fresh"
        )


def _log_step(run: Run, batch: LocalBatch, result: StepResult, started: float) -> int:
    """Write the step's metrics; returns its pairs over all processes."""
    seconds = time.monotonic() - started
    totals = _totals(run, batch, result.embedded_at - started)
    is_due = run.state.step % run.config.tracking.every == 0
    if run.is_main and (is_due or run.listeners.on_step is not None):
        metrics = step_metrics(
            totals,
            loss=result.loss,
            lr=result.lr,
            temperature=result.temperature,
            grad_norm=result.grad_norm,
            seconds=seconds,
            device=run.encoder.device,
            skipped_steps=run.state.skipped_steps,
        )
        metrics |= result.parts
        if is_due:
            run.log(metrics)
        if run.listeners.on_step is not None:
            run.listeners.on_step(run.state.step, metrics)
    return int(totals.pairs)


def _totals(run: Run, batch: LocalBatch, own_seconds: float) -> StepTotals:
    """Counts of the step, summed over the ranks."""
    is_unpadded = run.encoder.embedder.unpadded and batch.prefix is None
    computed_tokens = batch.real_tokens if is_unpadded else batch.padded_tokens
    rank_seconds = [own_seconds if rank == run.rank else 0.0 for rank in range(run.world)]
    counts = [batch.pairs, batch.real_tokens, computed_tokens, *rank_seconds]
    summed = sum_over_ranks(torch.tensor(counts, dtype=torch.float64, device=run.encoder.device))
    pairs, real_tokens, computed_tokens, *rank_seconds = summed.tolist()
    return StepTotals(pairs, real_tokens, computed_tokens, rank_seconds)


def _announce_dev(run: Run, batch: LocalBatch, batches: Prefetch, progress: Progress, clock: DevClock) -> None:
    """Say before the first step which share of the time dev will take, from counts of tokens."""
    if run.judge is None or clock.is_announced:
        return
    clock.is_announced = True
    if run.is_main:
        batches.settle()
        every = min(run.config.eval.every, run.learner.total_steps)
        progress.note(said_beforehand(run.judge, run.encoder, batch.real_tokens, every, run.world))


def _score_dev_if_due(run: Run, batches: Prefetch, progress: Progress, clock: DevClock) -> bool:
    """Measure dev when it is due, and return whether the score is the best so far; every process knows.

    The processes share the texts, unless passes are collective: then each embeds all. The main process's score counts.
    """
    if run.judge is None or not _dev_score_due(run):
        return False
    is_replica = not run.learner.model.passes_are_collective
    batches.settle()
    with progress.evaluating(), shared(run.encoder, run.rank, run.world if is_replica else 1):
        verdict = run.judge(run.encoder)
    is_best = run.state.note_score(agreed(verdict, run.encoder.device))
    if run.is_main:
        metrics = {**verdict.metrics, "dev_seconds": verdict.seconds}
        run.log(metrics)
        if run.listeners.on_dev is not None:
            run.listeners.on_dev(run.state.step, metrics)
    best = " (best so far)" if is_best else ""
    progress.note(f"step {run.state.step}: {verdict.shown}{best}; {clock.took(verdict.seconds)}{progress.dev_to_come}")
    if run.is_out_of_patience and run.state.best_step is None:
        raise UserError(
            f"eval.patience: none of the {run.state.worse_scores} dev scores was a number; look at the texts of "
            "eval.dev (every vector alike, or no relevant document), or train without eval.patience"
        )
    if run.is_out_of_patience:
        progress.note(
            f"stopped early at step {run.state.step}: no new best score in {run.state.worse_scores} dev evaluations; "
            f"the best is that of step {run.state.best_step} (eval.patience)"
        )
    return is_best


def _save_if_due(run: Run, *, is_best: bool, stop: bool) -> None:
    """Write a checkpoint when it is due, after checking that all ranks have the same weights."""
    tensors, step = trained_tensors(run), run.state.step
    if _comparison_due(run) or stop:
        check_replicas_equal(run.learner.model.replicas(tensors), step)
    if _checkpoint_due(run) or is_best or stop:
        save(run)


def _dev_score_due(run: Run) -> bool:
    return run.state.step % run.config.eval.every == 0 or run.state.step == run.learner.total_steps


def _checkpoint_due(run: Run) -> bool:
    is_last = run.state.step == run.learner.total_steps or run.is_out_of_patience
    return run.state.step % run.config.checkpoint.every == 0 or is_last


def _comparison_due(run: Run) -> bool:
    """Also wherever the main process may save, so that no checkpoint holds weights that other ranks don't have."""
    step, config = run.state.step, run.config
    may_be_best = bool(config.eval.dev_tasks) and step % config.eval.every == 0
    return step % config.distributed.compare_every == 0 or may_be_best or _checkpoint_due(run)
