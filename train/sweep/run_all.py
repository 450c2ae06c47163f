"""The runs of a sweep: train what is not done yet, compare on dev, and report on the winner."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dec2vec.decoder.model_folders import MARKER
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_text, why_not_written
from train.checkpointing.run_folder import RunFolder
from train.judge import DEV_METRIC, DEV_SCORE
from train.sweep.grid import Planned
from train.sweep.process import Ended, run_training
from train.sweep.report import report_markdown, table, winner_of
from train.sweep.state import Outcome, Status, begin, save
from train.tracking.metrics_file import read_metrics, step_of

REPORT = "sweep.md"


def run_all(config: Path, output: Path, planned: Sequence[Planned], *, report: bool) -> None:
    """Train the runs that are not done yet, compare them, and with `report` evaluate the winner on the tests.

    Resumes what an earlier command with the same output left. Raises UserError at the end if a run failed.
    """
    with RunFolder.claim(output):
        outcomes, others = begin(output, planned)
        _train_all(config, output, outcomes, others)
        winner = winner_of(outcomes)
        if report and winner is not None and not any(outcome.status == "failed" for outcome in outcomes):
            _report_winner(config, output, outcomes, others, winner)
        _write(output, outcomes, others, winner)
    sys.stdout.write("\n".join([*table(outcomes), "", f"winner   {winner}", f"report   {output / REPORT}"]) + "\n")
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise UserError(
            f"sweep: {len(failed)} of {len(outcomes)} runs failed, the first ({failed[0].name}) with: "
            f"{failed[0].error}; fix it and rerun the same command; finished runs are kept"
        )


def _train_all(config: Path, output: Path, outcomes: list[Outcome], others: Sequence[Outcome]) -> None:
    """`others` are runs of other commands, which are left unchanged."""
    (output / "logs").mkdir(exist_ok=True)
    for number, outcome in enumerate(outcomes):
        if outcome.status == "done" and _has_weights(output / outcome.name):
            continue
        _say(f"run {number + 1} of {len(outcomes)}: {outcome.name} ({_log(output, outcome.name)})")
        started = time.monotonic()
        ended = _train(config, output, outcome, report=False)
        outcomes[number] = _outcome(output, outcome, ended, time.monotonic() - started)
        _write(output, outcomes, others, winner_of(outcomes))
        _say(_result(outcomes[number]))
        if ended.interrupted or ended.stop:
            raise KeyboardInterrupt


def _train(config: Path, output: Path, outcome: Outcome, *, report: bool) -> Ended:
    """Train one run. Only the winner's runs are evaluated on the tests, with `report`."""
    folder = str(output / outcome.name)
    after = ["--eval.after_training", "true" if report else "false", "--output_dir", folder]
    return run_training([str(config), *outcome.options, *after], _log(output, outcome.name))


def _outcome(folder: Path, outcome: Outcome, ended: Ended, seconds: float) -> Outcome:
    step, score = _best_dev(folder / outcome.name / "metrics.jsonl")
    if ended.code == 0 and score is None:
        ended = Ended(1, "no dev score in its metrics.jsonl: dev was not evaluated, or gave nan", ended.stop)
    status: Status = "done" if ended.code == 0 else "interrupted" if ended.interrupted else "failed"
    return dataclasses.replace(
        outcome,
        status=status,
        dev=score,
        best_step=step,
        seconds=round(outcome.seconds + seconds, 1),
        error=ended.error if status == "failed" else "",
    )


def _best_dev(metrics: Path) -> tuple[int | None, float | None]:
    """Step and score of the best dev evaluation, the first of equal ones, as the trainer selects it."""
    if not metrics.is_file():
        return None, None
    scored = [(step_of(line), line.get(DEV_SCORE, line.get(DEV_METRIC))) for line in read_metrics(metrics)]
    numbers = [(step, float(score)) for step, score in scored if isinstance(score, (int, float))]
    return max(numbers, key=lambda pair: pair[1], default=(None, None))


def _report_winner(config: Path, output: Path, outcomes: list[Outcome], others: Sequence[Outcome], winner: str) -> None:
    """Evaluate the finished runs of the winning recipe on the tests. No training step is repeated."""
    for number, outcome in enumerate(outcomes):
        if outcome.recipe != winner or outcome.reported:
            continue
        _say(f"report of {outcome.name}")
        ended = _train(config, output, outcome, report=True)
        if ended.code == 0:
            outcomes[number] = dataclasses.replace(outcome, reported=True)
        elif not ended.interrupted:
            outcomes[number] = dataclasses.replace(outcome, status="failed", error=ended.error)
        _write(output, outcomes, others, winner)
        if ended.interrupted or ended.stop:
            raise KeyboardInterrupt


def _write(folder: Path, outcomes: Sequence[Outcome], others: Sequence[Outcome], winner: str | None) -> None:
    """Write `sweep.json` with all runs, and the comparison of this command's runs (others may have other options)."""
    save(folder, [*outcomes, *others], winner)
    try:
        atomic_write_text(folder / REPORT, report_markdown(outcomes, winner, folder, others))
    except OSError as error:
        raise UserError(f"{folder / REPORT} cannot be written; {why_not_written(error, '--output')}") from error


def _has_weights(folder: Path) -> bool:
    return any((folder / name / MARKER).is_file() for name in ("adapter", "model"))


def _log(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.log"


def _result(outcome: Outcome) -> str:
    if outcome.dev is None or outcome.status != "done":
        return f"  {outcome.status}: {outcome.error}"
    return f"  dev {100 * outcome.dev:.2f} at step {outcome.best_step}, {outcome.seconds:.0f} s"


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
