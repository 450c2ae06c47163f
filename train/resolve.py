"""The configuration with absolute paths, the device and the revision of the model."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Literal, TypeVar

import torch

from dec2vec.config.model import Dtype, ModelConfig
from dec2vec.config.tasks import TaskConfig, with_paths
from dec2vec.decoder.devices import DeviceName, autocast_dtype, resolve_device, use_local_accelerator
from dec2vec.decoder.positions import known_max_length
from dec2vec.decoder.published import with_reading
from dec2vec.decoder.start import find_start, pinned_adapter
from dec2vec.files.hub_datasets import PARTS, is_hub_id
from dec2vec.files.sources import is_pattern
from dec2vec.hub import pinned_revision
from dec2vec.prompts.prompt import PUBLISHED, get_prompt
from dec2vec.prompts.tokenizer import Tokenization
from train.config import TrainConfig
from train.distributed.collectives import is_first_process
from train.options.losses import LossConfig
from train.warm_start import with_adapter

_AUTOCAST: dict[torch.dtype | None, Literal["on", "off", "float16"]] = {
    None: "off",
    torch.bfloat16: "on",
    torch.float16: "float16",
}
_log = logging.getLogger(__name__)


def resolve(config: TrainConfig) -> TrainConfig:
    """Replace values that depend on the machine or the working directory by what they mean here.

    The result is written to the run folder and gives the same run again.
    """
    config = with_adapter(_with_pinned_adapter(config))
    device = resolve_device(config.model.device)
    if device.type != "cpu":
        use_local_accelerator()  # which is then asked for its dtypes, and not the first one by every process
    published = find_start(config.model).published
    read = with_reading(config.model, None if published is None else published.reading)
    model = dataclasses.replace(
        read,
        device=_device_name(device),
        autocast=_AUTOCAST[autocast_dtype(config.model.autocast, device)],
        name_or_path=_absolute(config.model.name_or_path),
        adapter=config.model.adapter and _absolute(config.model.adapter),
        revision=pinned_revision(config.model),
        max_length=known_max_length(config.model),
        tokenization=read.tokenization or _tokenization(read),
        dtype=_dtype(config),
    )
    data = tuple(
        dataclasses.replace(
            source,
            path=_absolute(source.path),
            corpus=source.corpus and _absolute(source.corpus),
            queries=source.queries and _absolute(source.queries),
            losses=tuple(map(_located, source.losses)),
        )
        for source in config.data
    )
    dev = config.eval.dev
    dev = tuple(map(_located_task, dev)) if isinstance(dev, tuple) else dev and _absolute(dev)
    tests = tuple(map(_located_task, config.eval.tests))
    return dataclasses.replace(
        config,
        model=model,
        data=data,
        loss=_located(config.loss),
        eval=dataclasses.replace(config.eval, dev=dev, tests=tests),
    )


def _with_pinned_adapter(config: TrainConfig) -> TrainConfig:
    """An adapter on the Hub is looked up once, before anything of it is read."""
    adapter = config.model.adapter and pinned_adapter(config.model.adapter)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, adapter=adapter))


def _dtype(config: TrainConfig) -> Dtype:
    """What the weights are stored in. Trained in full they are float32: AdamW's small updates are lost in 16 bits."""
    dtype = config.model.dtype
    if config.lora.method != "full" or dtype == "float32":
        return dtype
    if is_first_process():
        _log.info("model.dtype %s: weights that are trained in full are kept in float32 (autocast computes)", dtype)
    return "float32"


def _tokenization(model: ModelConfig) -> Tokenization:
    """What every export supports: a tokenizer alone cannot tokenize the text and a suffix as one string."""
    if model.prompt == PUBLISHED:
        return "joint"
    prompt = get_prompt(model.prompt_name, model.task)
    if not prompt.suffix:
        return "joint"
    if is_first_process():
        _log.info(
            "model.tokenization is separate, because the prompt %r has text after {text}; the untuned rows stay joint, "
            "as published",
            prompt.name,
        )
    return "separate"


def _located(loss: LossConfig) -> LossConfig:
    return loss if loss.teacher is None else dataclasses.replace(loss, teacher=_absolute(loss.teacher))


T = TypeVar("T", bound=TaskConfig)


def _located_task(task: str | T) -> str | T:
    return _absolute(task) if isinstance(task, str) else with_paths(task, _absolute_or_prefix)


def _absolute_or_prefix(path: str) -> str:
    """A test collection may be named by the common prefix of its files."""
    known = _absolute(path)
    is_prefix = known == path and "@" not in path and not is_hub_id(path) and Path(path).parent.is_dir()
    return str(Path(path).parent.resolve() / Path(path).name) if is_prefix else known


def _absolute(path: str) -> str:
    """Local paths, patterns of such and `folder@split` become absolute; Hub ids stay, also those with a slice."""
    if not path or is_hub_id(path):
        return path
    if Path(path).exists():
        return str(Path(path).resolve())
    parts = PARTS.fullmatch(path)
    if parts is not None and Path(parts["name"]).is_dir():
        name = parts["name"]
        found = f"{Path(name).resolve()}{path[len(name) :]}"
        return found if PARTS.fullmatch(found) else path  # a parent folder with @ in its name hides the split
    return str(Path(path).resolve()) if is_pattern(path) else path


def _device_name(device: torch.device) -> DeviceName:
    name: DeviceName = device.type  # type: ignore[assignment]  # `resolve_device` returns no other
    return name
