"""Averages of the decoder's own input embeddings, plain and by SIF: no layer runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.weights_fit import check_rows
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import NORMALIZERS, Side
from dec2vec.prompts.tokenizer import clean_surrogates, plain_ids
from eval.baselines.sif import common_component, sif_vectors, spread, token_frequencies, without_component


def text_ids(encoder: Encoder, texts: Sequence[str]) -> list[list[int]]:
    """Ids of the texts alone, without prompt, BOS and EOS, cut at `max_length`. UserError for one without a row."""
    normalize = NORMALIZERS[encoder.config.text_normalization]
    whole = plain_ids(encoder.tokenizer, [clean_surrogates(normalize(text)) for text in texts])
    ids = [row[: encoder.config.max_length] for row in whole]
    check_rows(encoder.config.name_or_path, ids, texts, encoder.tokens_without_row)
    return ids


def input_embeddings(encoder: Encoder) -> Float[np.ndarray, "vocab dim"]:
    """The input embedding matrix as float32; rows are token ids."""
    backbone: Any = encoder.embedder.backbone
    return np.asarray(backbone.get_input_embeddings().weight.detach().float().cpu().numpy())


class InputEmbeddings:
    """The model is loaded when it is first used; only its embedding matrix and tokenizer are kept in use."""

    def __init__(self, model: ModelConfig, *, weighted: bool = True) -> None:
        self.name = "sif" if weighted else "input-embeddings"
        self.learns = weighted
        self._model = model
        self._encoder: Encoder | None = None
        self._table: Float[np.ndarray, "vocab dim"] = np.zeros((0, 0), dtype=np.float32)
        self._frequencies: np.ndarray | None = None
        self._component: Float32[np.ndarray, " dim"] | None = None

    def fit(self, texts: Sequence[str]) -> None:
        """Token frequencies of all texts, then the common component of a sample of their vectors; none if plain."""
        if not self.learns:
            return
        ids = text_ids(self._loaded(), texts)
        self._frequencies = token_frequencies(ids, len(self._table))
        self._component = common_component(self._means(spread(texts), self._frequencies))

    def encode(self, texts: Sequence[str], side: Side | None = None) -> Float32[np.ndarray, "texts dim"]:
        """Both sides alike."""
        if not self.learns:
            self._loaded()
            return self._means(texts, np.zeros(len(self._table)))
        if self._frequencies is None or self._component is None:
            raise UserError(f"{self.name} has no frequencies; fit it on text")
        return without_component(self._means(texts, self._frequencies), self._component)

    @property
    def parameters(self) -> int:
        """Of the table, once it is loaded."""
        return int(self._table.size)

    def _means(self, texts: Sequence[str], frequencies: np.ndarray) -> Float32[np.ndarray, "texts dim"]:
        return sif_vectors(text_ids(self._loaded(), texts), self._table, frequencies)

    def _loaded(self) -> Encoder:
        if self._encoder is None:
            self._encoder = Encoder.load(self._model)
            self._table = input_embeddings(self._encoder)
        return self._encoder
