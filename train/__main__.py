"""`dec2vec train CONFIG.yaml [--plan] [--section.key value ...]`, under a launcher `-m dec2vec train ...`.

A run as a whole: read the configuration, refuse what cannot work, build, fit, finish. This file alone knows both
training and evaluation, and hands training what it needs to know of evaluation: the dev score, the whitening of the
tuned model, and the report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dec2vec.config.load import load_arguments
from dec2vec.errors import UserError
from dec2vec.errors import run as run_command
from dec2vec.own_packages import use_own_packages
from train.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from dec2vec.files.held_out import HeldOut
    from dec2vec.vectors.whitening import Whitening
    from eval.config import EvalConfig
    from eval.dev.tasks import DevTask
    from eval.tasks.sts import StsTask
    from train.data.dataset import TrainingData
    from train.distributed.lost_ranks import Contact
    from train.judge import Judge
    from train.state import Listeners, OnBest, Run

PLAN = "--plan"
_log = logging.getLogger("train")
LOOKED_AT = 50_000
"""Number of streamed rows among which texts of the dev file are looked for before training."""


def main(argv: Sequence[str]) -> None:
    """Train, export, compare with the untuned decoder; with `--plan` only say what that takes. Raises UserError."""
    use_own_packages()  # also after `python -m train`, in a folder that has an eval.py
    options = [word for word in argv if word != PLAN]
    config = load_arguments(TrainConfig, options, prog=f"dec2vec train [{PLAN}]")
    from dec2vec.runtime import keep_freed_memory
    from train.state import Listeners

    logging.basicConfig(format="%(message)s")
    logging.getLogger("train").setLevel(logging.INFO)  # where W&B logs to
    keep_freed_memory()
    train(config, Listeners(), only_plan=len(options) < len(argv))


def train(config: TrainConfig, listeners: Listeners, *, only_plan: bool = False) -> None:
    """The run as a whole, for the command and for `dec2vec.train`. Raises UserError."""
    from dec2vec.runtime import start_threads_flushed
    from train.data.held_out import load_run_data
    from train.distributed.engine import make_accelerator
    from train.distributed.launcher import check_launcher
    from train.distributed.lost_ranks import lost_rank_message
    from train.finish import leave
    from train.preflight import check_config, check_upload, without_effects
    from train.resolve import resolve

    start_threads_flushed()
    check_launcher()
    check_config(config)
    given = config
    if only_plan:
        config = without_effects(config)
    check_upload(config)
    config = resolve(config)
    data, held_out = load_run_data(config)
    _tell(data)
    judge = _read_evaluation(config, data, held_out)
    with lost_rank_message(config) as contact:
        accelerator = make_accelerator(config)
        if only_plan:
            _plan(given, config, data, judge, accelerator)
        else:
            _train(config, data, judge, accelerator, contact, listeners)
        leave(accelerator)


def _tell(data: TrainingData) -> None:
    """Say what was recognised in each source, on one process."""
    from train.distributed.collectives import is_first_process

    for number, (source, told) in enumerate(zip(data.sources, data.told, strict=True)):
        if is_first_process():
            for line in told.layout:
                _log.info("data.%d %s: %s", number, source.path, line)
            if told.unused is not None:
                _log.warning("data.%d %s: %s", number, source.path, told.unused)
    if data.held_out and is_first_process():
        _log.info("%s", data.held_out)


def _plan(
    given: TrainConfig, config: TrainConfig, data: TrainingData, judge: Judge | None, accelerator: Accelerator
) -> None:
    """Build the run in a folder that is deleted again, and print what it will take."""
    from train.build import build, open_folder
    from train.checkpointing.identity import left_open
    from train.loop.plan import make_plan

    with tempfile.TemporaryDirectory() as place:
        elsewhere = dataclasses.replace(config, output_dir=place)
        with open_folder(elsewhere, accelerator) as folder:
            run = build(elsewhere, data, accelerator, folder, None, {})
            texts = [task.texts for task in judge.tasks if task.texts is not None] if judge is not None else []
            plan = make_plan(run, [text for part in texts for text in (*part.queries, *part.documents)])
            sys.stdout.write("\n".join(plan.lines(left_open(given, run.config))) + "\n")


def _train(
    config: TrainConfig,
    data: TrainingData,
    judge: Judge | None,
    accelerator: Accelerator,
    contact: Contact,
    listeners: Listeners,
) -> None:
    from train.build import build, open_folder
    from train.finish import finish
    from train.loop.fit import fit
    from train.tracking.progress import Progress

    with open_folder(config, accelerator) as folder:
        contents = {} if judge is None else judge.contents(config.eval)
        run = dataclasses.replace(build(config, data, accelerator, folder, judge, contents), listeners=listeners)
        state = run.state  # not the run: it would hold the wrapped model beyond its process group
        contact.step = lambda: state.step
        shown, dev_every = run.is_main and listeners.progress, None if judge is None else config.eval.every
        bar = Progress(run.learner.total_steps, run.state.step, is_main=shown, dev_every=dev_every)
        with bar as progress, run.metrics, _pushing(run) as on_best:
            if run.world > 1:
                progress.note(f"{run.world} processes")  # a launcher may silently have started one only
            fit(run, progress, on_best)
        if run.is_main:
            finish(run, fit_whitening=_fit_whitening, write_report=_write_report)


def _pushing(run: Run) -> contextlib.AbstractContextManager[OnBest | None]:
    """What uploads each best checkpoint, on the main process of a run with `export.push`."""
    from train.export.push import BestPush

    if run.config.export.push is None or not run.is_main:
        return contextlib.nullcontext()
    title = {} if run.judge is None else {"title": run.judge.title}
    return BestPush(run.config, run.folder.path, run.encoder, **title)


def _read_evaluation(config: TrainConfig, data: TrainingData, held_out: HeldOut | None = None) -> Judge | None:
    """What judges the weights during training, if there are dev data.

    All that the evaluation after training reads is read now too, so that it is refused now or never.
    """
    from eval.dev.tasks import check_shared, load_dev_tasks
    from eval.inputs import read_inputs
    from eval.tasks.sts import StsTask
    from train.distributed.collectives import is_first_process
    from train.judge import Judge

    if not config.eval.dev_tasks and not config.eval.has_report:
        return None
    texts = _training_texts(data)
    tasks = load_dev_tasks(config.eval.dev_tasks, held_out, config.loss.temperature)
    judge = Judge.of(tasks, config.eval.metric) if tasks else None
    known = [task.task for task in tasks if isinstance(task.task, StsTask)]
    if config.eval.has_report:
        inputs = read_inputs(dataclasses.replace(_eval_config(config), tuned=()), texts)
        notes = check_shared(tasks, [*inputs.tests, *inputs.further], config.eval.mteb_tests)
        for line in notes if is_first_process() else ():
            _log.info(line)
        known += inputs.tests
    if config.export.whiten:
        _check_whitening(config, texts, known)
    _note_trained_dev(tasks, texts)
    return judge


def _training_texts(data: TrainingData) -> dict[str, list[str]]:
    """The distinct texts of each file, as the report fits on them; of a streamed one those of a sample of rows."""
    from train.data.stored import StoredTexts

    found: dict[str, dict[str, None]] = {}
    for source, table in zip(data.sources, data.tables, strict=True):
        texts = found.setdefault(source.path, {})
        rows = table.texts.sample(LOOKED_AT) if isinstance(table.texts, StoredTexts) else table.texts
        texts.update(dict.fromkeys(text for row in rows for text in row if text.strip()))
    return {path: list(texts) for path, texts in found.items()}


def _check_whitening(config: TrainConfig, texts: Mapping[str, Sequence[str]], tasks: Sequence[StsTask]) -> None:
    from eval.leakage.training_text import held_out_texts, sample_fit_text

    count = len(sample_fit_text(texts, held_out_texts(tasks), config.eval.whitening_sentences, config.seed).sentences)
    if count < 2:
        raise UserError(
            f"export.whiten: {count} of the training texts are in neither dev nor tests, which is too few to fit a "
            "whitening; use export.whiten false, or other files for eval"
        )


def _note_trained_dev(tasks: Sequence[DevTask], texts: Mapping[str, Sequence[str]]) -> None:
    """Warn of dev data that are trained on: they then measure memory."""
    from eval.report.notes import SHOWN
    from train.distributed.collectives import is_first_process

    known = set[str]().union(*texts.values())
    for task in tasks if is_first_process() else ():
        items = task.items
        seen = sum(all(text in known for text in item) for item in items)
        if seen > SHOWN * len(items):
            _log.warning(
                "eval.dev %s: %d of its %d %s consist of texts that are trained on, so the dev score does not show how "
                "good the model is on new texts; keep %s for dev out of the training data",
                task.name,
                seen,
                len(items),
                *[task.unit] * 2,
            )


def _fit_whitening(run: Run) -> Whitening:
    """The whitening of the report's row `tuned/...+whiten-k`: fitted on the same text, with k chosen on dev."""
    from eval.inputs import load_tasks
    from eval.leakage.trained_on import run_sources
    from eval.leakage.training_text import held_out_texts, sample_fit_text
    from eval.selection.whiten import choose_whitening
    from eval.tasks.sts import load_task

    config = run.config
    path, has_tests = config.eval.similarity_dev, config.eval.has_report and _eval_config(config).tests
    assert path is not None
    dev, tests = load_tasks(_eval_config(config)) if has_tests else (load_task(path), [])
    sources = run_sources(str(run.folder.path))
    fit = sample_fit_text(sources, held_out_texts([dev, *tests]), config.eval.whitening_sentences, config.seed)
    whitening = choose_whitening(run.encoder, dev, fit.sentences, fit.sha256)
    if whitening is None:
        raise UserError(
            "export.whiten: no whitening can be fitted on the training texts (too few outside dev, or all vectors "
            "equal); run the same command with export.whiten false"
        )
    return whitening


def _write_report(run: Run) -> str:
    """Compare the tuned model with every untuned system; the table, and where the report is."""
    from dec2vec.decoder.load import untuned_reading
    from eval.leakage.trained_on import run_sources
    from eval.report.overview import HEADER, overview_rows
    from eval.report.report import format_table, table_header, table_rows
    from eval.report.write import write_report
    from eval.run import evaluate
    from train.build import load_base

    config = _eval_config(run.config)
    name = run.folder.path.resolve().name
    try:
        texts = run_sources(str(run.folder.path))
        untuned = load_base(untuned_reading(run.config.model))
        chosen_by, line = _chosen_by(run)
        tuned = {name: run.encoder}
        report = evaluate(config, base=untuned, tuned=tuned, training_texts=texts, chosen_by=chosen_by)
        report = dataclasses.replace(report, notes=[*line, *report.notes])
        paths = write_report(report, run.folder.report)
    except (UserError, OSError, RuntimeError, ValueError, MemoryError) as error:  # RuntimeError: out of CUDA's memory
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"the model is complete in {run.folder.path}, but there is no report: {reason}; once that is mended, the "
            f"same command writes it without training again, or run {_eval_command(config)}"
        ) from error
    if report.tests:
        run.tracker.table("comparison", table_header(report), table_rows(report, report.systems))
    if report.tasks:
        run.tracker.table("tasks", HEADER, overview_rows(report))
    return f"{format_table(report)}\n\nreport   {paths.html}"


def _chosen_by(run: Run) -> tuple[tuple[str, str], list[str]]:
    """The kind of task and the metric that chose the checkpoint, and a line for the report that says so.

    A similarity file alone leads as ever, without a line.
    """
    from train.judge import DEV_METRIC

    judge, state = run.judge, run.state
    if judge is None or judge.score_name == DEV_METRIC or state.best_score is None:
        return ("", ""), []
    line = f"The weights are those of step {state.best_step}, chosen by dev {judge.title} {100 * state.best_score:.2f}."
    return (judge.kind, judge.metric), [line]


def _eval_command(config: EvalConfig) -> str:
    """The command that makes the evaluation `config`."""
    from eval.config import EvalConfig
    from train.checkpointing.identity import options_of

    usual = dict(options_of(EvalConfig()))
    given = [(name, value) for name, value in options_of(config) if value != usual.get(name)]
    chosen = [(name, value) for name, value in given if name in usual or value not in (None, "", ())]
    words = [(f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))) for name, value in chosen]
    return shlex.join(["dec2vec", "eval", *(word for option in words for word in option)])


def _eval_config(config: TrainConfig) -> EvalConfig:
    """The evaluation that `dec2vec eval` would make of this run."""
    from eval.config import EvalConfig

    tests = config.eval.test_tasks
    sections: dict[str, Any] = {
        section: tuple(getattr(task, section) for task in tests if getattr(task, section) is not None)
        for section in ("pairs", "gap", "topics", "clustering", "retrieval", "mteb")
    }
    return EvalConfig(
        model=config.model.untuned,
        tuned=(config.output_dir,),
        dev=config.eval.similarity_dev or "",
        tests=tuple(task.similarity for task in tests if task.similarity is not None),
        fit=tuple(dict.fromkeys(source.path for source in config.data)),
        whitening_sentences=config.eval.whitening_sentences,
        seed=config.seed,
        output_dir=config.output_dir,
        cache="",
        **sections,
    )


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
