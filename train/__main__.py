"""`python -m train CONFIG.yaml [--section.key value ...]`, also under `accelerate launch -m train` and torchrun.

The composition root: it alone knows training and evaluation, and hands one to the other.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dec2vec.config import load_arguments
from dec2vec.exit_codes import run as run_command
from train.config import TrainConfig

if TYPE_CHECKING:
    from train.loop import Run


def main(argv: Sequence[str]) -> None:
    """Train, export, compare with the untuned decoder. Raises UserError."""
    config = load_arguments(TrainConfig, argv, prog="dec2vec train")
    from eval.tasks.sts import dev_score, load_task
    from train import session
    from train.data import load_pairs
    from train.loop import fit
    from train.progress import make_progress

    logging.basicConfig(format="%(message)s")
    config = session.resolve(config)
    table = load_pairs(config.data)
    session.total_steps(config, len(table))
    dev = None if config.eval.dev is None else load_task(config.eval.dev)
    accelerator = session.make_accelerator(config)
    with session.open_folder(config, accelerator) as folder:
        score = None if dev is None else lambda encoder: dev_score(encoder, dev)
        run = session.build(config, table, accelerator, folder, score)
        with make_progress(run.learner.total_steps, run.state.step, run.is_main) as progress, run.metrics:
            fit(run, progress)
        if run.is_main:
            session.take_best(run)
            _finish(run)
            run.tracker.finish()
        accelerator.wait_for_everyone()
        accelerator.end_training()


def _finish(run: Run) -> None:
    """Adapter, report, model folder and where they are."""
    from train.export import save_adapter, save_sentence_transformer

    lines = [f"adapter  {save_adapter(run.encoder, run.folder.adapter)}"]
    if run.config.eval.after_training:
        lines += _report(run)
    save_sentence_transformer(run.encoder, run.folder.model, run.config.export.merge, None)
    lines.append(f"model    {run.folder.model}")
    sys.stdout.write("\n".join(lines) + "\n")


def _report(run: Run) -> list[str]:
    return []


if __name__ == "__main__":
    sys.exit(run_command(main, sys.argv[1:]))
