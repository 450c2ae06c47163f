"""Everything that is refused before the first step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.model_folders import find
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import get_prompt
from train.checkpointing.run_folder import RunFolder
from train.config import TrainConfig
from train.data import report as data_report
from train.distributed.collectives import gather_rows
from train.distributed.interface import Engine
from train.distributed.zero3 import Zero3
from train.export.push import check_repository_name, check_token
from train.export.save import check_replaceable
from train.export.sentence_transformers import check_exportable
from train.export.tokenizer import save_tokenizer
from train.losses.checks import check_dropout
from train.losses.matryoshka import check_width
from train.losses.per_source import losses_of


def check_sources(config: TrainConfig, encoder: Encoder) -> None:
    """Every source's prompts leave room for a text, and texts that are embedded twice get two vectors."""
    for number, source in enumerate(config.data):
        for prompt, side in data_report.prompts_of(source):
            encoder.tokenize(["a"], prompt=prompt, side=side)
        for loss in losses_of(source, config):
            check_width(loss, encoder.dimension)
        if source.kind == "texts" and not all(loss.teacher for loss in losses_of(source, config)):
            check_dropout(_architecture(encoder), config.lora, f"data.{number}.kind texts")


def _architecture(encoder: Encoder) -> dict[str, object]:
    backbone: Any = encoder.embedder.backbone
    found: dict[str, object] = backbone.config.get_text_config().to_dict()
    return found


def check_targets(config: TrainConfig, folder: RunFolder) -> None:
    """What the export will replace must be ours, and not the base that is trained and compared with."""
    is_full = config.lora.method == "full"
    targets = [folder.model] * (is_full or config.export.model) + [folder.adapter] * (not is_full)
    artifact = find(config.model)
    base = Path((config.model if artifact is None else artifact.base).name_or_path).resolve()
    for target in targets:
        if base.is_relative_to(target.resolve()):
            raise UserError(f"model.name_or_path {base}: training would replace it; choose another --output_dir")
        check_replaceable(target)


def check_same_step(step: int, folder: RunFolder, accelerator: Accelerator) -> None:
    """The main process writes the checkpoints; a node that can't see them would begin at step 0 without a word."""
    steps, _ = gather_rows(torch.tensor([step], device=accelerator.device))
    if steps.min() != steps.max():
        raise UserError(
            f"output_dir {folder.path}: processes find different checkpoints (steps {steps.tolist()}); put it on a "
            "disk that all nodes share, or use --checkpoint.resume fresh"
        )


def check_export(encoder: Encoder) -> None:
    """Refuse before training what `model/` could not express after it."""
    check_exportable(encoder)
    with tempfile.TemporaryDirectory() as trial:
        save_tokenizer(encoder, Path(trial))


def check_exported_prompt(model: ModelConfig) -> None:
    """A tuned model must export to plain tokenizers, which can't tokenise text and suffix as one."""
    prompt = get_prompt(model.prompt, model.task)
    if prompt.suffix and model.tokenization == "joint":
        raise UserError(
            f"model.prompt {prompt.name!r} has text behind the slot; add --model.tokenization separate, so that the "
            "exported tokenizer can write the prompt, or --export.model false"
        )


def check_shardable(engine: type[Engine], config: TrainConfig) -> None:
    """UserError for what one process does with whole weights while the others wait."""
    if not engine.passes_are_collective:
        return
    under = f"not under {engine.title}"
    if config.mining.every is not None:
        raise UserError(f"mining.every: {under}, where a pass needs all processes; run dec2vec mine before")
    if config.export.push is not None:
        raise UserError(f"export.push: {under}, where a best lies in shards; dec2vec export pushes the end")
    if engine is Zero3 and config.model.load_in_4bit:
        raise UserError("model.load_in_4bit: not under ZeRO-3; configs/accelerate/fsdp2-4bit.yaml has 4-bit shards")


def check_push(config: TrainConfig) -> None:
    """Refuse before training what can't be pushed after it."""
    if config.export.push is None:
        return
    if not config.export.model:
        raise UserError("export.push: pushes model/, which --export.model false leaves out; drop one of the two")
    if config.model.load_in_4bit and Path(config.model.name_or_path).is_dir():
        raise UserError(
            "export.push: others can't read a base that is a folder here, and an adapter can't be merged into 4-bit "
            "weights; name the base by its Hub id, or leave out export.push"
        )
    check_repository_name(config.export.push)
    if os.environ.get("RANK", "0") == "0":
        check_token()  # the other processes push nothing, perhaps on hosts without a login
