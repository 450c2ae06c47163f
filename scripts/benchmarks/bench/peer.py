"""sentence-transformers' step on the work of a bench: its collator, its losses, PEFT, fused AdamW.

The loop is our own and does what its trainer's does between two log lines (collate, loss, backward, clip, step),
without the trainer's bookkeeping, which is in the peer's favour.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn

from bench.losses import DEFAULT
from bench.models import adapter_key, end_in, fill_adapters
from bench.texts import MAX_TOKENS
from bench.work import ALPHA, LEARNING_RATE, RANK, TEMPERATURE, Work
from dec2vec.runtime import keep_freed_memory


class Peer:
    """`work.options` name the loss: plain, cached:MINI_BATCH or tokens:BUDGET."""

    def __init__(self, work: Work) -> None:
        keep_freed_memory()
        torch.set_num_threads(work.threads)
        self._work = work
        transformer = Transformer(work.model, model_kwargs={"dtype": torch.float32})
        transformer.max_seq_length = MAX_TOKENS + 64
        end_in(transformer.tokenizer, transformer.tokenizer.eos_token)
        pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = SentenceTransformer(modules=[transformer, pooling], device=device)
        self.model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
        fill_adapters(self.model)
        self.model.train()
        self._weights = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        self._optimizer = torch.optim.AdamW(self._weights.values(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
        self._collate = SentenceTransformerDataCollator(
            preprocess_fn=self.model.preprocess, prompts=work.prompt or None
        )
        self._loss = make_loss(self.model, work.options[0] if work.options else DEFAULT)
        self._kept: dict[str, NDArray[Any]] = {}
        self.keeps = False

    def step(self, number: int) -> None:
        """Collate, loss, backward, clip, step."""
        batch = self._collate(self._work.read(number))
        features = [
            {
                key.removeprefix(f"{column}_"): value.to(self.model.device)
                if isinstance(value, torch.Tensor)
                else value
                for key, value in batch.items()
                if key.startswith(f"{column}_")
            }
            for column in self._work.read(number)[0]
        ]
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._work.precision == "bf16"):
            loss = self._loss(features, None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        if self.keeps:
            self._kept = {
                adapter_key(name): value.grad.cpu().numpy()
                for name, value in self._weights.items()
                if value.grad is not None
            }
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> dict[str, NDArray[Any]]:
        """Of the last step that was asked to keep them."""
        return self._kept

    def backbone(self) -> nn.Module:
        """With its adapters."""
        module: nn.Module = self.model[0].auto_model
        return module


def make_loss(model: SentenceTransformer, name: str) -> nn.Module:
    """The loss that a name of `bench.losses` means."""
    kind, _, size = name.partition(":")
    scale = 1 / TEMPERATURE
    if kind == "plain":
        loss: nn.Module = MultipleNegativesRankingLoss(model, scale=scale)
    elif kind == "cached":
        loss = CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=int(size))
    else:
        loss = CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_num_tokens=int(size))
    return loss
