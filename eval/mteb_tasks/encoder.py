"""Our encoder as `mteb` wants one: its `EncoderProtocol` (mteb 2), so that any of its tasks can be run.

A text gets the prompt that mteb's names lead to (`prompts`). Where none does, queries and documents get the encoder's
own prompts of their sides, and texts that have no side, as in STS, get its prompt for such texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float32

from dec2vec.prompts.cut_texts import CutTexts
from eval.mteb_tasks.prompts import prompt_of, side_of
from eval.systems.system import TextEncoder

REVISION = "local"


class MtebEncoder:
    """mteb gets vectors from `encode` alone. Other arguments than inputs and prompt type are not used."""

    def __init__(
        self,
        model_name: str,
        revision: str | None = REVISION,
        *,
        encoder: TextEncoder,
        batch_tokens: int = 16_384,
        prompts: Mapping[str, str] = MappingProxyType({}),
        digest: str | None = None,
        progress: bool = False,
    ) -> None:
        self.model_name = model_name
        self.revision = revision or REVISION
        self.encoder = encoder
        self.batch_tokens = batch_tokens
        self.prompts = prompts
        """Prompts by mteb's names."""
        self.digest = digest
        """Of all that the vectors depend on; None if it is not known, so that every task is computed."""
        self.progress = progress
        self.cuts: dict[str, CutTexts] = {}
        """By task the texts that were cut."""

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Float32[np.ndarray, "texts dim"]:
        """Unit vectors of the texts of all batches, in order: our own batches are by length."""
        texts = [text for batch in inputs for text in batch["text"]]
        side = side_of(prompt_type)
        prompt = prompt_of(self.prompts, task_metadata, prompt_type, self.encoder.config.task) if self.prompts else None
        is_cut = self.encoder.is_cut(texts, prompt=prompt, side=side)
        self.cuts.setdefault(task_metadata.name, CutTexts()).add(texts, is_cut)
        return self.encoder.encode(
            texts, prompt=prompt, side=side, batch_tokens=self.batch_tokens, progress=self.progress
        )

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of all with all, as a torch tensor."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of each with its partner, as a torch tensor."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)

    @property
    def mteb_model_meta(self) -> Any:
        """What is known of the model; nothing is claimed of data or licence."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        config = self.encoder.config
        return ModelMeta.create_empty(
            {
                "name": self.model_name,
                "revision": self.revision,
                "similarity_fn_name": ScoringFunction.COSINE,
                "max_tokens": config.token_limit,
                "use_instructions": bool(self.prompts) or config.prompt_name != "bare",
                "framework": ["PyTorch"],
            }
        )
