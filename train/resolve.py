"""The configuration with its paths, device and revision filled in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dec2vec.config.model import LOGIT_POOLINGS
from dec2vec.decoder.load import resolve_device, use_autocast
from dec2vec.errors import UserError
from dec2vec.hub import pinned_revision
from dec2vec.prompts.prompt import get_prompt
from train.config import LossConfig, TrainConfig
from train.export.save import check_mergeable
from train.losses.per_source import check_losses
from train.preflight import check_exported_prompt


def resolve(config: TrainConfig) -> TrainConfig:
    """Replace what depends on the machine or the working directory by what it means here.

    The result is written to the run folder and gives the same run again.
    """
    get_prompt(config.model.prompt, config.model.task)  # one prompt: an ensemble can't be trained
    check_losses(config)
    for source in config.data:
        for prompt in filter(None, (source.query_prompt, source.document_prompt)):
            get_prompt(prompt, config.model.task)
    if config.model.pooling in LOGIT_POOLINGS:
        raise UserError(f"model.pooling {config.model.pooling}: for encoding and evaluation only; train with last")
    if config.export.model:
        check_exported_prompt(config.model)
        if config.export.merge and config.model.load_in_4bit:
            raise UserError("export.merge: an adapter can't be merged into 4-bit weights; leave it out")
        check_mergeable(config.model, merge=config.lora.method == "full" or config.export.merge)
    device = resolve_device(config.model.device)
    model = dataclasses.replace(
        config.model,
        device="cuda" if device.type == "cuda" else "cpu",
        autocast="on" if use_autocast(config.model.autocast, device) else "off",
        name_or_path=_absolute(config.model.name_or_path),
        revision=pinned_revision(config.model),
    )
    data = tuple(
        dataclasses.replace(source, path=_absolute(source.path), losses=tuple(map(_located, source.losses)))
        for source in config.data
    )
    dev = None if config.eval.dev is None else _absolute(config.eval.dev)
    tests = tuple(_absolute(path) for path in config.eval.tests)
    return dataclasses.replace(
        config,
        model=model,
        data=data,
        loss=_located(config.loss),
        eval=dataclasses.replace(config.eval, dev=dev, tests=tests),
    )


def _located(loss: LossConfig) -> LossConfig:
    return loss if loss.teacher is None else dataclasses.replace(loss, teacher=_absolute(loss.teacher))


def _absolute(path: str) -> str:
    """Local paths become absolute; Hub ids stay."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path
