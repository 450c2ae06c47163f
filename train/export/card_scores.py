"""Which figures of a report are those of the exported model: of its weights and its whitening, on data that chose
nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dec2vec.files.dev_record import Chooser, DevRecord, read_record
from dec2vec.identity import Identity
from train.config import TrainConfig
from train.export.card_report import METRIC, CardReport, CardTask, Score, Tuned


@dataclass(frozen=True)
class Exported:
    """What decides which figures are the exported model's own."""

    run: str
    """The name of the run folder, by which older reports know the run."""
    identity: Identity | None = None
    whitening: Mapping[str, str | int | float] | None = None
    """The facts of the exported whitening; None for a model without one."""
    dev: tuple[str, ...] = ()
    """The names of the data on which training chose the checkpoint."""
    by: str = ""
    """Which of their metrics did, in words; empty where that is not known."""


@dataclass(frozen=True)
class OwnScores:
    """The exported model's main figures by task."""

    tests: Mapping[str, Score]
    """On data that chose nothing."""
    others: Mapping[str, Score]
    """The average of the tests, and figures on data that chose something."""
    clean: Mapping[str, Score] = field(default_factory=dict)
    """On the part of each test that training has not seen."""
    chosen_on: tuple[str, ...] = ()
    """Tasks that chose something."""
    missing: str = ""
    """Why there are none, though there is a report."""


NONE = OwnScores({}, {})


def what_chose(run: Path, config: TrainConfig) -> DevRecord:
    """What the run folder records; of a run of an earlier version what its configuration says."""
    known = read_record(run)
    return DevRecord(tuple(map(Chooser, config.eval.dev_names))) if known is None else known


def by_metric(chose: DevRecord) -> str:
    """`by MRR@10`, or `by the mean of nDCG@10 and accuracy`; empty for similarity files alone."""
    metrics = dict.fromkeys(chooser.metric for chooser in chose.chose)
    if set(metrics) <= {"", METRIC}:
        return ""
    return f" by {'the mean of ' if len(chose.chose) > 1 else ''}{' and '.join(metrics)}"


def own_scores(report: CardReport | None, exported: Exported) -> OwnScores:
    """The figures of the report that belong to what is exported. Rows may come in any order."""
    if report is None:
        return NONE
    name = _name(report, exported)
    if name is None:
        return OwnScores({}, {}, missing="The evaluation in the run's folder is of other weights than these.")
    record = None if report.tuned is None else report.tuned[name]
    tasks = {task.name: task for task in report.tests}
    rows = [row for row in report.scores if row.kind == "system" and row.run == name and not row.transductive]
    rows = [
        row
        for row in rows
        if row.fitted_on is None and _is_exported(row, tasks.get(row.task), report, record, exported)
    ]
    mine = {row.task: row for row in rows if row.metric == _metric(row, tasks) and not row.clean}
    if not mine:
        return OwnScores({}, {}, missing="The evaluation in the run's folder is not of the form that is exported here.")
    chose = _chose(report, record, exported)
    tests = {task.name: mine[task.name] for task in report.tests if task.name in mine and task.name not in chose}
    others = {task: row for task, row in mine.items() if task not in tests}
    clean = {row.task: row for row in rows if row.clean and row.task in tests and _is_main_clean(row, tasks)}
    return OwnScores(tests, others, {task: clean[task] for task in tests if task in clean}, tuple(sorted(chose)))


def _name(report: CardReport, exported: Exported) -> str | None:
    """The run in the report that has the exported weights. In an older report, the run of the folder's name."""
    if report.tuned is not None:
        identity = exported.identity
        same = (name for name, tuned in report.tuned.items() if identity and tuned.weights == identity.weights)
        return next(same, None)
    return exported.run if any(row.run == exported.run for row in report.scores) else None


def _metric(row: Score, tasks: Mapping[str, CardTask]) -> str:
    """The main one of the row's task. Tasks that are no tests, such as dev and the average, are of similarity."""
    return tasks.get(row.task, CardTask(row.task)).metric


def _is_main_clean(row: Score, tasks: Mapping[str, CardTask]) -> bool:
    metric = _metric(row, tasks)
    return row.metric in (f"{metric}_clean", f"{metric} (clean)")


def _is_exported(
    row: Score, task: CardTask | None, report: CardReport, record: Tuned | None, exported: Exported
) -> bool:
    """Whether the row is of the post-processing that is exported: none, or this whitening."""
    if task is not None and task.kind.startswith("mteb/"):  # which reads the model as it is
        mine = None if exported.identity is None else exported.identity.whitening
        return record is not None and record.whitening == mine and row.post is None
    if exported.whitening is None:
        return row.post is None
    return row.post == "whiten" and _is_whitening(row, report, record, exported)


def _is_whitening(row: Score, report: CardReport, record: Tuned | None, exported: Exported) -> bool:
    """Whether a whitened row has the map that is exported: as many dimensions, fitted on the same text."""
    facts, identity = exported.whitening or {}, exported.identity
    if row.k != facts.get("k"):
        return False
    if row.system not in report.fits and row.exported and record is not None and identity is not None:
        return record.whitening == identity.whitening  # it was measured with the map in the run's folder
    mine, theirs = facts.get("fit_sha256"), report.fits.get(row.system, report.fit_sha256)
    return theirs is None or not mine or mine == theirs


def _chose(report: CardReport, record: Tuned | None, exported: Exported) -> set[str]:
    chose = {report.dev} if report.dev else set()
    chose |= {row.chosen_on for row in report.scores if row.chosen_on}
    if record is not None:
        return chose | set(record.chosen_on)
    return chose | set(exported.dev)


def by_value(scores: Sequence[Score]) -> list[Score]:
    """Highest first; of equals in the order of their names."""
    return sorted(scores, key=lambda row: (-2.0 if row.value is None else -row.value, row.system))
