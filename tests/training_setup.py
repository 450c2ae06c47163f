"""A tiny learner and its batches, for the tests of the training step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from dec2vec import Encoder, ModelConfig
from dec2vec.decoder.embedder import Embedder
from tests.helpers import tiny_model_folder, word_pairs
from train.adapters.lora import make_trainable, trainable_parameters
from train.config import LoraConfig
from train.data.clean import Counts
from train.data.dataset import TrainingData
from train.data.table import SourceTable
from train.options.data import SourceConfig


def tiny_encoder(folder: Path, family: str = "llama", *, lora: LoraConfig | None = None, **model: object) -> Encoder:
    """An encoder with adapters whose B matrices are not zero, so that every gradient is informative.

    They are drawn on the CPU, so that they are the same on every device.
    """
    if not (folder / "config.json").exists():
        tiny_model_folder(folder, family)
    torch.manual_seed(0)
    config = ModelConfig(**{"name_or_path": str(folder), "max_length": 64, "autocast": "off", **model})
    encoder = Encoder.load(config)
    make_trainable(encoder.embedder, lora or LoraConfig(rank=4, alpha=8))
    with torch.no_grad():
        for name, parameter in trainable_parameters(encoder.embedder).items():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    return encoder


def tiny_table(count: int) -> TrainingData:
    """Pairs of words; some with one hard negative."""
    rows = word_pairs(count)
    texts = [tuple(str(row[name]) for name in ("anchor", "positive", "negative") if name in row) for row in rows]
    return data_of(SourceTable("pairs", texts))


def data_of(*tables: SourceTable, **options: object) -> TrainingData:
    """Tables as if they had been read; `options` of all their sources."""
    sources = tuple(SourceConfig(**{"kind": table.kind, **options}) for table in tables)
    return TrainingData(sources, tables, tuple(Counts(len(table), 0, 0, 0, 0, 0) for table in tables))


def gradients(embedder: Embedder) -> dict[str, torch.Tensor]:
    """Gradient of every trained parameter, cloned and cleared."""
    found = {}
    for name, parameter in trainable_parameters(embedder).items():
        assert parameter.grad is not None, name
        found[name] = parameter.grad.clone()
        parameter.grad = None
    return found


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative difference of a tensor, in the Euclidean norm."""
    return max(float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected)
