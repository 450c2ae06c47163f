"""`python -m train CONFIG.yaml [--section.key value ...]`, also under `accelerate launch -m train` and torchrun.

The composition root: it alone knows training and evaluation, and hands one to the other.
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
    from train.data.make_sampler import make_sampler
    from train.distributed.engine import make_accelerator
    from train.distributed.lost_ranks import lost_rank_message
    from train.finish import leave
    from train.preflight import check_push
    from train.resolve import resolve

    logging.basicConfig(format="%(message)s")
    logging.getLogger("train").setLevel(logging.INFO)  # where W&B logs to
    keep_freed_memory()
    start_threads_flushed()
    config = resolve(config)
    check_push(config)
    data = load_data(config.data, normalization=config.model.text_normalization, mixed=config.batch.sources == "mixed")
    make_sampler(config, data)
    dev = _load_tasks(config)
    with lost_rank_message(config) as contact:
        accelerator = make_accelerator(config)
        _train(config, data, dev, accelerator, contact)
        leave(accelerator)


def _train(
    config: TrainConfig, data: TrainingData, dev: StsTask | None, accelerator: Accelerator, contact: Contact
) -> None:
    from eval.tasks.sts import dev_score
    from train.build import build, open_folder
    from train.finish import take_best
    from train.loop import fit
    from train.tracking.progress import Progress

    with open_folder(config, accelerator) as folder:
        score = None if dev is None else lambda encoder: dev_score(encoder, dev)
        run = build(config, data, accelerator, folder, score)
        state = run.state  # not the run: it would hold the wrapped model beyond its process group
        contact.step = lambda: state.step
        bar = Progress(run.learner.total_steps, run.state.step, is_main=run.is_main)
        with bar as progress, run.metrics, _pushing(run) as on_best:
            if run.world > 1:
                progress.note(f"{run.world} processes")  # a launcher may silently have started one only
            fit(run, progress, on_best)
        if run.is_main:
            run = take_best(run)
            _finish(run)
            run.tracker.finish()


def _pushing(run: Run) -> contextlib.AbstractContextManager[OnBest | None]:
    """What uploads each best checkpoint, on the main process of a run that wants that."""
    from train.export.push import BestPush

    if run.config.export.push is None or not run.is_main:
        return contextlib.nullcontext()
    return BestPush(run.config, run.folder.path, run.encoder)


def _load_tasks(config: TrainConfig) -> StsTask | None:
    """The dev task. What the evaluation after training would refuse is refused before it."""
    from eval.inputs import load_tasks
    from eval.tasks.sts import load_task

    if config.eval.dev is None and config.export.whiten:
        raise UserError("export.whiten: its k is chosen on dev; name a similarity file with --eval.dev")
    if config.eval.after_training and config.eval.tests:
        if config.eval.dev is None:
            raise UserError(
                "eval.tests: layers are chosen on dev; name a similarity file with --eval.dev, "
                "or use --eval.after_training false"
            )
        return load_tasks(_eval_config(config))[0]
    return None if config.eval.dev is None else load_task(config.eval.dev)


def _finish(run: Run) -> None:
    """Adapter, report and model folder, and where they are."""
    from train.export.push import push_finished
    from train.export.save import save_adapter
    from train.export.staging import export_model
    from train.finish import describe_inputs

    config, folder = run.config, run.folder
    if config.export.whiten:
        _whiten(run)
    saved = save_adapter(run.encoder, folder.adapter)  # model/ where all weights were tuned
    lines = [f"{saved.name:<8} {saved}"]
    if config.eval.after_training and config.eval.dev is not None and config.eval.tests:
        lines = [*_compare(run), *lines]
    if config.export.model:
        export_model(folder.path, config, run.encoder, folder.model, merge=config.export.merge)
        lines += [f"model    {folder.model}"] if saved != folder.model else []
    if config.export.push is not None:
        lines.append(push_finished(config, folder.path, run.encoder))
    if config.tracking.upload:
        inputs = describe_inputs(config, sum(run.data.sizes), run.data.content_hash)
        for item in inputs:
            run.tracker.uses(item.name, item.kind, item.facts)
        facts = {item.kind: item.facts for item in inputs} | {"best_step": run.state.best_step}
        run.tracker.artifact(saved.name, "model", saved, facts)
        if folder.report.is_dir():
            run.tracker.artifact("report", "report", folder.report)
    sys.stdout.write("\n".join(lines) + "\n")


def _compare(run: Run) -> list[str]:
    """Write the report of the tuned model beside every untuned system; its table and where it lies."""
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
    return [format_table(report), "", f"report   {paths.html}"]


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


def _whiten(run: Run) -> None:
    """Give the encoder the whitening of the report's row `tuned/...+whiten-k`: the same text, k chosen on dev."""
    from dec2vec.vectors.whitening import Whitening
    from eval.inputs import load_tasks
    from eval.leakage.training_text import run_sources, sample_fit_text
    from eval.selection.choose import Material, choose
    from eval.systems.system import own_view
    from eval.tasks.sts import load_task

    config = run.config
    assert config.eval.dev is not None
    is_compared = config.eval.after_training and config.eval.tests
    dev, tests = load_tasks(_eval_config(config)) if is_compared else (load_task(config.eval.dev), [])
    sources = run_sources(str(run.folder.path))
    evaluated = [text for task in (dev, *tests) for text in task.texts]
    fit = sample_fit_text(sources, evaluated, config.eval.whitening_sentences, config.seed)
    material = Material(dev=dev, fit=fit.sentences, fit_hash=fit.sha256, posts=("whiten",))
    choices = choose(run.encoder, config.model.prompt, [own_view(run.encoder)], material)
    fitted = [choice.post for choice in choices if isinstance(choice.post, Whitening)]
    if not fitted:
        raise UserError(
            "export.whiten: no whitening can be fitted on the training texts (too few outside dev, or all vectors "
            "equal); run the same command with --export.whiten false"
        )
    run.encoder.whitening = fitted[0]


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
