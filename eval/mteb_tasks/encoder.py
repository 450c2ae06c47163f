"""Our encoder as `mteb` wants one: its `EncoderProtocol` (mteb 2), so that any of its tasks can be run.

Queries and documents get the prompts of their sides; tasks whose texts have no side, such as STS, get the query's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from dec2vec.prompts.cut_texts import CutTexts
from dec2vec.prompts.prompt import Side
from eval.systems.system import TextEncoder

REVISION = "local"


class MtebEncoder:
    """mteb gets vectors from `encode` alone. Other arguments than inputs and prompt type are not used."""

    def __init__(
        self, model_name: str, revision: str | None = REVISION, *, encoder: TextEncoder, batch_tokens: int = 16_384
    ) -> None:
        self.model_name = model_name
        self.revision = revision or REVISION
        self.encoder = encoder
        self.batch_tokens = batch_tokens
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
        side: Side = "text" if prompt_type is None else "document" if prompt_type.value == "document" else "query"
        self.cuts.setdefault(task_metadata.name, CutTexts()).add(texts, self.encoder.is_cut(texts, side=side))
        return self.encoder.encode(texts, side=side, batch_tokens=self.batch_tokens, progress=False)

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
        """Name and revision; nothing is claimed of data or licence."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        return ModelMeta.create_empty(
            {"name": self.model_name, "revision": self.revision, "similarity_fn_name": ScoringFunction.COSINE}
        )
