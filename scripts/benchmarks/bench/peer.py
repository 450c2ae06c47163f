"""sentence-transformers' step on the work of a bench: its collator, its losses, PEFT, fused AdamW.

The loop is our own and does what its trainer's does between two log lines (collate, loss, backward, clip, step),
without the trainer's bookkeeping, which is in the peer's favour. As in its trainer, texts are collated in the main
process, and the model's forward pass is wrapped in autocast as Accelerate wraps it, so that a cached loss, which embeds
again in its backward pass, computes both passes in bfloat16.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
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

TEXT_ONLY: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
"""Texts as they are; else a tokenizer with a chat template would wrap each text in a conversation."""


class Peer:
    """`work.options` name the loss: plain, cached:MINI_BATCH or tokens:BUDGET."""

    def __init__(self, work: Work) -> None:
        keep_freed_memory()
        torch.set_num_threads(work.threads)
        self._work = work
        transformer = Transformer(
            work.model,
            model_kwargs={"dtype": getattr(torch, work.base), **_attention()},
            modality_config=TEXT_ONLY,
            module_output_name="token_embeddings",
        )
        transformer.max_seq_length = MAX_TOKENS + 64
        end_in(transformer.tokenizer, transformer.tokenizer.eos_token)
        pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = SentenceTransformer(modules=[transformer, pooling], device=device)
        self.model.add_adapter(LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
        fill_adapters(self.model)
        self.model.train()
        if work.precision == "bf16":
            _autocast_forward(self.model)
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
        self._loss(self._features(number), None).backward()
        torch.nn.utils.clip_grad_norm_(self._weights.values(), 1.0)
        if self.keeps:
            self._kept = {
                adapter_key(name): value.grad.float().cpu().numpy()  # its adapters have the dtype of the base
                for name, value in self._weights.items()
                if value.grad is not None
            }
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def token_ids(self, number: int) -> list[list[int]]:
        """What the decoder reads of batch `number`: all anchors, then all positives, then all negatives."""
        return [
            ids[mask.bool()].tolist()
            for column in self._features(number)
            for ids, mask in zip(column["input_ids"], column["attention_mask"], strict=True)
        ]

    def gradients(self) -> dict[str, NDArray[Any]]:
        """Of the last step that was asked to keep them."""
        return self._kept

    def backbone(self) -> nn.Module:
        """With its adapters."""
        module: nn.Module = self.model[0].auto_model
        return module

    def _features(self, number: int) -> list[dict[str, Any]]:
        rows = self._work.read(number)
        batch = self._collate(rows)
        return [
            {
                key.removeprefix(f"{column}_"): value.to(self.model.device)
                if isinstance(value, torch.Tensor)
                else value
                for key, value in batch.items()
                if key.startswith(f"{column}_")
            }
            for column in rows[0]
        ]


def _attention() -> dict[str, str]:
    """flash-attn where it is installed, which also lets the peer leave out padding; else what transformers chooses."""
    has_flash = torch.cuda.is_available() and find_spec("flash_attn") is not None
    return {"attn_implementation": "flash_attention_2"} if has_flash else {}


def _autocast_forward(model: SentenceTransformer) -> None:
    """What Accelerate's `prepare_model` does for mixed precision "bf16": every forward pass, outputs in float32."""
    wrapped = torch.autocast(model.device.type, torch.bfloat16)(type(model).forward)
    model.forward = MethodType(convert_outputs_to_fp32(wrapped), model)


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
