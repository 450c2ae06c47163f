"""The decoder's own input embeddings as word vectors: their plain mean, or weighted by rarity, less what is common.

SIF (Arora et al. 2017). Frequencies and the component come from training-side text, so no evaluation text is fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import Side

SAMPLE = 20_000
"""Training-side texts that the common component is taken from."""


class InputEmbeddings:
    """The model is loaded when it is fitted; only its embedding matrix and tokenizer are used."""

    def __init__(self, model: ModelConfig, *, weighted: bool = True) -> None:
        self.name = "sif" if weighted else "input-embeddings"
        self._model = model
        self._is_weighted = weighted
        self._component: Float32[np.ndarray, " dim"] | None = None

    def fit(self, texts: Sequence[str]) -> None:
        """Token frequencies of all texts, then the first right singular vector of a sample's vectors; none if plain."""
        from dec2vec.encoder import Encoder
        from dec2vec.static_embeddings import input_embeddings, text_ids, token_frequencies

        self._encoder = Encoder.load(self._model)
        self._table = input_embeddings(self._encoder)
        if not self._is_weighted:
            self._frequencies, self._component = np.zeros(len(self._table)), np.zeros(self._table.shape[1], np.float32)
            return
        ids = text_ids(self._encoder, texts)
        self._frequencies = token_frequencies(ids, len(self._table))
        step = max(1, len(texts) // SAMPLE)
        sample = self._weighted(texts[::step])
        self._component = np.linalg.eigh(sample.T @ sample)[1][:, -1]

    def encode(self, texts: Sequence[str], side: Side = "query") -> Float32[np.ndarray, "texts dim"]:
        """Both sides alike."""
        if self._component is None:
            raise UserError(f"{self.name}: has no frequencies yet; fit it on training-side text (fit)")
        vectors = self._weighted(texts)
        return np.asarray(vectors - np.outer(vectors @ self._component, self._component), dtype=np.float32)

    def _weighted(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        from dec2vec.static_embeddings import sif_vectors, text_ids

        return sif_vectors(text_ids(self._encoder, texts), self._table, self._frequencies)
