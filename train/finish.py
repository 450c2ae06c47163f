"""After the last step: best weights, whitening, adapter, report, model folder, uploads."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator

from dec2vec.errors import UserError
from dec2vec.files.atomic import written
from dec2vec.vectors.whitening import Whitening
from train.adapters.lora import make_trainable
from train.build import load_base, make_projection
from train.checkpointing.checkpoint import load_checkpoint
from train.config import TrainConfig
from train.distributed.engine import wrap_alone
from train.export.push import push_finished
from train.export.save import save_adapter, shown_name
from train.export.staging import export_model, renew_card
from train.optim import make_optimizer
from train.state import Run, restore
from train.warm_start import adapter_folder


def finish(run: Run, *, fit_whitening: Callable[[Run], Whitening], write_report: Callable[[Run], str]) -> None:
    """On the main process: write what the run has made, and tell where it is.

    Both functions evaluate the run. `fit_whitening` is called for `export.whiten`, `write_report` if there are test
    files; it returns the lines to print. The model is written before the report, so that a report that fails (UserError
    at the end) costs no model.
    """
    run = take_best(run)
    saved = _save(run, fit_whitening)
    lines, failure = _report(run, write_report) if run.config.eval.has_report else ([], None)
    lines += _places(run, saved)
    if run.config.export.push is not None:
        lines.append(push_finished(run.config, run.folder.path, run.encoder, evaluated=failure is None))
    if run.config.tracking.upload:
        _upload(run, saved)
    (run.listeners.tell or sys.stdout.write)("\n".join(lines) + "\n")
    run.tracker.finish()
    if failure is not None:
        raise failure


def _save(run: Run, fit_whitening: Callable[[Run], Whitening]) -> Path:
    """Write `adapter/` and `model/`. Returns the first, or the second if all weights were tuned."""
    config, folder = run.config, run.folder
    if config.export.whiten:
        try:
            run.encoder.whitening = fit_whitening(run)
        except UserError:
            save_adapter(run.encoder, folder.adapter)  # without whitening, but not lost
            raise
    saved = save_adapter(run.encoder, folder.adapter)
    if config.export.model:
        evaluated = not config.eval.has_report  # the report comes next, and the card with it
        export_model(folder.path, config, run.encoder, folder.model, merge=config.export.merge, evaluated=evaluated)
    return saved


def _report(run: Run, write_report: Callable[[Run], str]) -> tuple[list[str], UserError | None]:
    """The report's lines, after which the card of `model/` has its scores; or why there is none."""
    config, folder = run.config, run.folder
    try:
        lines = [write_report(run)]
    except UserError as error:
        return [], error
    if config.export.model:
        with written(folder.model / "README.md", "output_dir"):
            renew_card(folder.path, config, run.encoder, folder.model, merge=config.export.merge)
    return lines, None


def _places(run: Run, saved: Path) -> list[str]:
    model = run.folder.model
    return [f"{saved.name:<8} {saved}", *([f"model    {model}"] if run.config.export.model and saved != model else [])]


def leave(accelerator: Accelerator) -> None:
    """End the process group, without a barrier: the main process may have evaluated for hours.

    Under NCCL, to end the group is itself a call that all processes of a machine must make, so each of them would hold
    its GPU until the main one comes. There the process ends instead; all it had to write is on disk.

    The wrapped model must go first. DDP's C++ reducer, as the last owner of a Gloo group, joins its threads while
    holding the GIL, which one of them may be waiting for (PyTorch issue 56297; hung in 1 of some 50 runs).
    """
    accelerator.free_memory()
    if dist.is_initialized() and dist.get_backend() == "nccl":
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    accelerator.end_training()


def take_best(run: Run) -> Run:
    """The run with the weights of its best step on dev, or with the last ones if there is no dev file.

    Sharded weights are replaced by whole ones: this process loads the base again, onto its device if it is to encode
    texts and otherwise into host memory.
    """
    best = run.state.step if run.state.best_step is None else run.state.best_step
    is_copy = not run.learner.model.holds_whole_weights
    if is_copy:
        run = _with_whole_weights(run)
    if is_copy or best != run.state.step:
        path = run.folder.checkpoints / f"step-{best:06d}"
        restore(run, load_checkpoint(path, run.identity), optimizer=False)
    run.encoder.embedder.eval()
    return run


def _with_whole_weights(run: Run) -> Run:
    config, learner = run.config, run.learner
    torch.manual_seed(config.seed)  # as in build: what an adapter's init does to the base comes out the same
    encodes = config.export.whiten or config.eval.has_report
    place = config.model if encodes else learner.model.loading_config(config.model)
    encoder = load_base(config.model, place, trains_adapter=True)
    make_trainable(encoder.embedder, config.lora, adapter_folder(config.model))
    make_projection(config, encoder, run.teachers)
    model = wrap_alone(encoder.embedder)
    optimizer = make_optimizer(model, learner.temperature, config.optim, learner.projection)
    alone = dataclasses.replace(learner, model=model, optimizer=optimizer)
    return dataclasses.replace(run, encoder=encoder, learner=alone)


@dataclass(frozen=True)
class RunInput:
    """One thing the run has read. `facts` are plain JSON; equal facts are the same thing."""

    name: str
    kind: str
    facts: dict[str, object]


def run_inputs(config: TrainConfig, rows: int, sha256: str) -> list[RunInput]:
    """The training data, by the digest of its texts, and the decoder. No path of this machine is written."""
    sources = [Path(source.path).name if Path(source.path).exists() else source.path for source in config.data]
    data = RunInput(f"data-{sha256[:12]}", "dataset", {"sources": sources, "rows": rows, "sha256": sha256})
    name, revision = shown_name(config.model.name_or_path), config.model.revision
    return [data, RunInput(f"base-{name}", "base-model", {"name": name, "revision": revision})]


def _upload(run: Run, saved: Path) -> None:
    """Send the adapter and the report to the tracker, with what they were made from."""
    inputs = run_inputs(run.config, sum(run.data.sizes), run.data.content_hash)
    for item in inputs:
        run.tracker.uses(item.name, item.kind, item.facts)
    facts = {item.kind: item.facts for item in inputs} | {"best_step": run.state.best_step}
    run.tracker.artifact(saved.name, "model", saved, facts)
    if run.folder.report.is_dir():
        run.tracker.artifact("report", "report", run.folder.report)
