"""Our trainer's own step on the work of a bench.

As in a run, a thread tokenizes the next batch while a step is computed. The thread ends within the time of that step,
so that it takes none of the peer's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import nn

from bench.models import adapter_key, fill_adapters
from bench.texts import MAX_TOKENS
from bench.work import ALPHA, LEARNING_RATE, RANK, TEMPERATURE, Work
from dec2vec import Encoder
from dec2vec.prompts.prompt import SLOT
from dec2vec.runtime import flushed, keep_freed_memory, start_threads_flushed
from train.adapters.capabilities import leave_out_padding, why_not_shared
from train.adapters.lora import make_trainable, trainable_parameters
from train.config import TrainConfig
from train.data.batch import BatchOptions, LocalBatch, prepare
from train.data.clean import Counts
from train.data.dataset import TrainingData
from train.data.prefetch import Prefetch
from train.data.table import SourceTable
from train.distributed.single import PlainAdamW, Single
from train.gradcache.graph_budget import GraphBudget
from train.gradcache.memory import chunk_budget
from train.losses.objective import Temperature
from train.optim import Learner, make_optimizer
from train.options.data import SourceConfig
from train.step import train_step


class Ours:
    """`prepare` and `train_step` as `fit` calls them; `work.options` change options of the run."""

    def __init__(self, work: Work) -> None:
        keep_freed_memory()
        torch.set_num_threads(work.threads)
        self._work = work
        self.config = _config(work)
        start_threads_flushed()
        self.encoder = Encoder.from_backbone(self.config.model)
        make_trainable(self.encoder.embedder, self.config.lora)
        fill_adapters(self.encoder.embedder)
        self.encoder.embedder.train()
        model = Single(self.encoder.embedder)
        if self.config.batch.unpadded:
            leave_out_padding(model)
        temperature = Temperature(TEMPERATURE, learned=False).to(self.encoder.device)
        optimizer = make_optimizer(model, temperature, self.config.optim)
        assert isinstance(optimizer, PlainAdamW)
        optimizer.adamw.register_step_pre_hook(self._keep_gradients)
        self._learner = Learner(model, temperature, optimizer, total_steps=10**6)
        setting = self.config.batch.graph_tokens
        self._graph_tokens = None if setting == "auto" else setting
        self._batches = Prefetch(self._batch, work.batches)
        self._kept: dict[str, NDArray[Any]] = {}
        self.keeps = False

    def step(self, number: int) -> None:
        """One step of the trainer."""
        batch = self._batches.batch(number)
        if self._graph_tokens is None:
            self._graph_tokens = GraphBudget(self._learner.model, batch.chunks, "auto").room()
        with flushed():
            result = train_step(self._learner, batch, number, self.config, graph_tokens=self._graph_tokens)
        self._batches.settle()
        assert result.applied

    def token_ids(self, number: int) -> list[list[int]]:
        """What the decoder reads of batch `number`: all anchors, then all positives, then all negatives."""
        anchors, *documents = self._work.columns(number)
        ids = self.encoder.tokenize(anchors, side="query")
        return ids + [row for texts in documents for row in self.encoder.tokenize(texts, side="document")]

    def gradients(self) -> dict[str, NDArray[Any]]:
        """Of the last step that was asked to keep them."""
        return self._kept

    def backbone(self) -> nn.Module:
        """With its adapters."""
        return self.encoder.embedder.backbone

    def _batch(self, number: int) -> LocalBatch:
        anchors, positives, *rest = self._work.columns(number)
        texts = list(zip(anchors, positives, *rest, strict=True))
        data = TrainingData((SourceConfig(),), (SourceTable("pairs", texts),), (Counts(len(texts), 0, 0, 0, 0, 0),))
        budget = chunk_budget(self.config.batch.chunk_tokens, self.encoder.device)
        shares = self.config.batch.share_prefix and why_not_shared(self._learner.model) is None
        return prepare(data, np.arange(len(anchors)), self.encoder, BatchOptions(budget, share_prefix=shares))

    def _keep_gradients(self, *_: object) -> None:
        if self.keeps:
            named = trainable_parameters(self.encoder.embedder).items()
            self._kept = {
                adapter_key(name): value.grad.cpu().numpy() for name, value in named if value.grad is not None
            }


def _config(work: Work) -> TrainConfig:
    options: dict[str, dict[str, Any]] = {
        "model": {
            "name_or_path": work.model,
            "max_length": MAX_TOKENS + 64,
            "dtype": work.base,
            "autocast": "on" if work.precision == "bf16" else "off",
            "prompt": work.prompt + SLOT if work.prompt else "bare",
        },
        "lora": {"rank": RANK, "alpha": ALPHA},
        "loss": {"temperature": TEMPERATURE},
        "optim": {"lr": LEARNING_RATE, "warmup": 0.0, "decay": "constant"},
    }
    for option in work.options:
        name, value = option.split("=", 1)
        section, key = name.split(".")
        options.setdefault(section, {})[key] = yaml.safe_load(value)
    return TypeAdapter(TrainConfig).validate_python(options)
