"""After the last step: the best weights, the adapter, the model folder and uploads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from train.adapters.lora import make_trainable
from train.build import load_base
from train.checkpointing.checkpoint import load_checkpoint
from train.config import TrainConfig
from train.distributed.single import Single
from train.export.save import shown_name
from train.optim import make_optimizer
from train.state import Run, restore


def leave(accelerator: Accelerator) -> None:
    """End the process group, without a barrier: the main process may have evaluated for hours.

    The wrapped model must go first. DDP's C++ reducer, as the last owner of a Gloo group, joins its threads while
    holding the GIL, which one of them may be waiting for (PyTorch issue 56297; hung in 1 of some 50 runs).
    """
    accelerator.free_memory()
    accelerator.end_training()


def take_best(run: Run) -> Run:
    """The run with the weights of the step that scored best on dev, or the last ones without a dev file.

    Weights in shards come back whole: the base is read again by this one process, onto its device if texts are to be
    encoded and else into host memory.
    """
    best = run.state.step if run.state.best_step is None else run.state.best_step
    is_copy = not run.learner.model.holds_whole_weights
    if is_copy:
        run = _with_whole_weights(run)
    if is_copy or best != run.state.step:
        path = run.folder.checkpoints / f"step-{best:06d}"
        restore(run, load_checkpoint(path, run.config_hash), optimizer=False)
    run.encoder.embedder.eval()
    return run


def _with_whole_weights(run: Run) -> Run:
    config, learner = run.config, run.learner
    torch.manual_seed(config.seed)  # as in build: what an adapter's init does to the base comes out the same
    encodes = config.export.whiten or (config.eval.after_training and config.eval.tests)
    encoder = load_base(config.model, config.model if encodes else learner.model.loading_config(config.model))
    make_trainable(encoder.embedder, config.lora)
    model = Single(encoder.embedder)
    optimizer = make_optimizer(model, learner.temperature, config.optim)
    alone = dataclasses.replace(learner, model=model, optimizer=optimizer)
    return dataclasses.replace(run, encoder=encoder, learner=alone)


@dataclass(frozen=True)
class Input:
    """One thing the run read. `facts` are plain JSON; equal facts are the same thing."""

    name: str
    kind: str
    facts: dict[str, object]


def describe_inputs(config: TrainConfig, rows: int, sha256: str) -> list[Input]:
    """The training data, by the digest of its texts, and the decoder. No path of this machine is written."""
    sources = [Path(source.path).name if Path(source.path).exists() else source.path for source in config.data]
    data = Input(f"data-{sha256[:12]}", "dataset", {"sources": sources, "rows": rows, "sha256": sha256})
    name, revision = shown_name(config.model.name_or_path), config.model.revision
    return [data, Input(f"base-{name}", "base-model", {"name": name, "revision": revision})]
