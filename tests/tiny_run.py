"""A whole training run in a second or two, and what of it must not depend on kills, ranks or folders."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dec2vec import ModelConfig
from dec2vec.config.load import dump
from tests.helpers import graded_pairs, tiny_model_folder, word_pairs, write_jsonl
from train.__main__ import main
from train.config import BatchConfig, CheckpointConfig, EvalSection, LoraConfig, OptimConfig, TrainConfig
from train.loop import fit as loop
from train.options.data import SourceConfig
from train.options.losses import LossConfig
from train.tracking.metrics_file import read_metrics

STEPS = 10
STEPS_PER_EPOCH = 3
PACE = ("rank_seconds_median", "rank_seconds_max", "slowest_rank")
TIMED = ("pairs_per_second", "tokens_per_second", "memory_mib", "dev_seconds", *PACE)

TWO_SOURCES = (SourceConfig(path="pairs.jsonl", limit=9, weight=2.0), SourceConfig(path="pairs.jsonl", weight=1.0))

MIXTURE = (
    SourceConfig(path="pairs.jsonl", limit=9, weight=2.0, query_prompt="Query: {text}"),
    SourceConfig(path="pairs.jsonl", kind="texts", text="positive", weight=1.0),
    SourceConfig(path="dev.jsonl", kind="graded", weight=1.0, losses=(LossConfig(kind="cosent"),)),
    SourceConfig(
        path="labelled.jsonl", kind="labelled", weight=1.0, texts_per_label=2, losses=(LossConfig(kind="supcon"),)
    ),
    SourceConfig(
        path="pairs.jsonl", weight=1.0, losses=(LossConfig(), LossConfig(kind="distil_scores", teacher="decoder"))
    ),
)
"""Pairs in a prompt of their own, texts that dropout makes two views of, graded pairs, labelled texts, and pairs that a
teacher judges too; with a weight each for drawn sources."""


def write_run(folder: Path, **sections: Any) -> Path:
    """Model, data and a configuration with paths relative to `folder`: dropout, 3 steps an epoch, dev file."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_model_folder(folder / "decoder")
    write_jsonl(folder / "pairs.jsonl", word_pairs(22))
    write_jsonl(folder / "dev.jsonl", graded_pairs(16))
    labelled = [{"text": row["anchor"], "label": str(number % 3)} for number, row in enumerate(word_pairs(18))]
    write_jsonl(folder / "labelled.jsonl", labelled)
    config = TrainConfig(
        model=ModelConfig(name_or_path="decoder", max_length=64, device="cpu", autocast="off"),
        lora=LoraConfig(rank=4, alpha=8.0, dropout=0.1),
        data=(SourceConfig(path="pairs.jsonl"),),
        loss=LossConfig(learn_temperature=True),
        optim=OptimConfig(steps=STEPS, lr=1e-2),
        batch=BatchConfig(size=8, chunk_tokens=128, graph_tokens=256),
        checkpoint=CheckpointConfig(every=3, keep=2),
        eval=EvalSection(dev="dev.jsonl", every=4, after_training=False),
        output_dir="out",
    )
    path = folder / "run.yaml"
    path.write_text(dump(replace(config, **sections)), encoding="utf-8")
    return path


def train(config: Path, output: Path, *overrides: str) -> None:
    """`python -m train CONFIG --output_dir OUTPUT ...` in this process."""
    main([str(config), "--output_dir", str(output), *overrides])


def stopped_at(at: int, run: Callable[[], None]) -> None:
    """`run` in a process of its own, which gets SIGTERM when step number `at` begins: it saves that step and ends."""
    step = loop.train_step

    def with_signal(*arguments: Any, **options: Any) -> Any:
        if arguments[2] == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **options)

    loop.train_step = with_signal
    with pytest.raises(KeyboardInterrupt):
        run()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metrics_of(output: Path) -> list[dict[str, Any]]:
    """Every line without what the clock decides."""
    return [{key: line[key] for key in line if key not in TIMED} for line in read_metrics(output / "metrics.jsonl")]


def steps_of(output: Path) -> list[int]:
    """Steps of the training lines, in the order of the file."""
    return [int(line["step"]) for line in metrics_of(output) if "loss" in line]


def fingerprint(output: Path) -> dict[str, str]:
    """Hashes of all weights, moments and states, and the names of all files: equal for equal runs."""
    names = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    hashed = [name for name in names if name.endswith((".safetensors", "state.json"))]
    return {"names": "\n".join(names), **{name: sha256(output / name) for name in hashed}}
