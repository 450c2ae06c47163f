"""Both products' `encode` on the same texts in the same prompt, read at the last token of the last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench.models import end_in
from bench.texts import MAX_TOKENS
from bench.work import Work
from dec2vec.prompts.prompt import get_prompt
from dec2vec.runtime import keep_freed_memory

LONGEST = MAX_TOKENS + 128
SIZES = ("16", "32", "64", "128", "256")
"""Batch sizes that `st-best` chooses from; sentence-transformers' default is 32."""


@dataclass(frozen=True)
class Ours:
    """Our encoder; an option batch_tokens=N changes its chunks."""

    work: Work
    encoder: Any

    @classmethod
    def load(cls, work: Work) -> Ours:
        """The untuned decoder."""
        from dec2vec import Encoder, ModelConfig

        autocast: Literal["on", "off"] = "on" if work.precision == "bf16" else "off"
        config = ModelConfig(
            name_or_path=work.model, prompt=work.prompt, layer=-1, max_length=LONGEST, autocast=autocast
        )
        return cls(work, Encoder.from_backbone(config))

    def encode(self, texts: list[str]) -> NDArray[Any]:
        """As a user calls it."""
        options = {name: int(value) for name, value in (option.split("=") for option in self.work.options)}
        return np.asarray(self.encoder.encode(texts, progress=False, **options))


@dataclass(frozen=True)
class Theirs:
    """sentence-transformers on the same strings; an option names its batch size."""

    work: Work
    model: Any

    @classmethod
    def load(cls, work: Work) -> Theirs:
        """Last-token pooling; the tokenizer ends a text in EOS exactly where our prompt does."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        transformer = Transformer(work.model, model_kwargs={"dtype": torch.float32})
        transformer.max_seq_length = LONGEST
        end_in(transformer.tokenizer, transformer.tokenizer.eos_token * get_prompt(work.prompt, "").append_eos)
        pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(work, SentenceTransformer(modules=[transformer, pooling], device=device))

    def encode(self, texts: list[str]) -> NDArray[Any]:
        """As a user calls it, with the prompt written around the texts."""
        prompt = get_prompt(self.work.prompt, "")
        wrapped = [prompt.prefix + text + prompt.suffix for text in texts]
        size = int(self.work.options[0]) if self.work.options else 32
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.work.precision == "bf16"):
            found = self.model.encode(wrapped, batch_size=size, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found)


def load(kind: str, work: Work) -> Ours | Theirs:
    """ours or peer."""
    keep_freed_memory()
    torch.set_num_threads(work.threads)
    return Ours.load(work) if kind == "ours" else Theirs.load(work)
