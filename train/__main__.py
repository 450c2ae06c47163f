"""`python -m train CONFIG.yaml [--section.key value ...]`, also under `accelerate launch -m train` and torchrun.

A run as a whole: read the configuration, refuse what cannot work, build, fit, finish. This file alone knows both
training and evaluation, and hands training what it needs to know of evaluation: the dev score, the whitening of the
tuned model, and the report.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dec2vec.config.load import load_arguments
from dec2vec.errors import UserError
from dec2vec.errors import run as run_command
from train.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from dec2vec.vectors.whitening import Whitening
    from eval.config import EvalConfig
    from eval.tasks.sts import StsTask
    from train.data.dataset import TrainingData
    from train.distributed.lost_ranks import Contact
    from train.state import OnBest, Run


def main(argv: Sequence[str]) -> None:
    """Train, export, compare with the untuned decoder. Raises UserError."""
    config = load_arguments(TrainConfig, argv, prog="dec2vec train")
    from dec2vec.runtime import keep_freed_memory, start_threads_flushed
    from train.data.dataset import load_data
    from train.distributed.engine import make_accelerator
    from train.distributed.lost_ranks import lost_rank_message
    from train.finish import leave
    from train.preflight import check_config
    from train.resolve import resolve

    logging.basicConfig(format="%(message)s")
    logging.getLogger("train").setLevel(logging.INFO)  # where W&B logs to
    keep_freed_memory()
    start_threads_flushed()
    check_config(config)
    config = resolve(config)
    data = load_data(config.data, normalization=config.model.text_normalization, mixed=config.batch.sources == "mixed")
    dev = _load_dev(config)
    with lost_rank_message(config) as contact:
        accelerator = make_accelerator(config)
        _train(config, data, dev, accelerator, contact)
        leave(accelerator)


def _train(
    config: TrainConfig, data: TrainingData, dev: StsTask | None, accelerator: Accelerator, contact: Contact
) -> None:
    from eval.tasks.sts import dev_score
    from train.build import build, open_folder
    from train.finish import finish
    from train.loop import fit
    from train.tracking.progress import Progress

    with open_folder(config, accelerator) as folder:
        score = None if dev is None else lambda encoder: dev_score(encoder, dev)
        contents = {} if dev is None else {"eval.dev": dev.content_hash}
        run = build(config, data, accelerator, folder, score, contents)
        state = run.state  # not the run: it would hold the wrapped model beyond its process group
        contact.step = lambda: state.step
        bar = Progress(run.learner.total_steps, run.state.step, is_main=run.is_main)
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
    return BestPush(run.config, run.folder.path, run.encoder)


def _load_dev(config: TrainConfig) -> StsTask | None:
    """The dev task. Test files are read too, so that the report after training does not refuse them."""
    from eval.inputs import load_tasks
    from eval.tasks.sts import load_task

    if config.eval.has_report:
        return load_tasks(_eval_config(config))[0]
    return None if config.eval.dev is None else load_task(config.eval.dev)


def _fit_whitening(run: Run) -> Whitening:
    """The whitening of the report's row `tuned/...+whiten-k`: fitted on the same text, with k chosen on dev."""
    from eval.inputs import load_tasks
    from eval.leakage.training_text import held_out_texts, run_sources, sample_fit_text
    from eval.selection.whiten import choose_whitening
    from eval.tasks.sts import load_task

    config = run.config
    assert config.eval.dev is not None
    dev, tests = load_tasks(_eval_config(config)) if config.eval.has_report else (load_task(config.eval.dev), [])
    sources = run_sources(str(run.folder.path))
    fit = sample_fit_text(sources, held_out_texts([dev, *tests]), config.eval.whitening_sentences, config.seed)
    whitening = choose_whitening(run.encoder, dev, fit.sentences, fit.sha256)
    if whitening is None:
        raise UserError(
            "export.whiten: no whitening can be fitted on the training texts (too few outside dev, or all vectors "
            "equal); run the same command with --export.whiten false"
        )
    return whitening


def _write_report(run: Run) -> str:
    """Compare the tuned model with every untuned system; the table, and where the report is."""
    from eval.leakage.training_text import run_sources
    from eval.report.report import format_table, table_header, table_rows
    from eval.report.write import write_report
    from eval.run import evaluate
    from train.build import load_base

    config = _eval_config(run.config)
    untuned = load_base(run.config.model.untuned)
    name, texts = run.folder.path.resolve().name, run_sources(str(run.folder.path))
    report = evaluate(config, base=untuned, tuned={name: run.encoder}, training_texts=texts)
    paths = write_report(report, run.folder.report)
    run.tracker.table("comparison", table_header(report), table_rows(report, report.systems))
    return f"{format_table(report)}\n\nreport   {paths.html}"


def _eval_config(config: TrainConfig) -> EvalConfig:
    """The evaluation that `dec2vec eval` would make of this run."""
    from eval.config import EvalConfig

    return EvalConfig(
        model=config.model.untuned,
        tuned=(config.output_dir,),
        dev=config.eval.dev or "",
        tests=config.eval.tests,
        fit=tuple(dict.fromkeys(source.path for source in config.data)),
        whitening_sentences=config.eval.whitening_sentences,
        seed=config.seed,
        output_dir=config.output_dir,
        cache="",
    )


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
