"""Word vectors trained on the training-side text, averaged over a text's words.

word2vec by gensim (skip-gram with negative sampling, Mikolov et al. 2013), on one thread and a fixed seed, so that
the same text gives the same vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import NDArray

from dec2vec.config.model import ModelConfig
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import NORMALIZERS, Side
from dec2vec.prompts.tokenizer import clean_surrogates, plain_ids
from eval.baselines.sparse import words

DIMENSION = 200
WINDOW = 5
EPOCHS = 5
RARITY = 1e-3
"""a of the weights a / (a + share of the word)."""
LEAST = 2
"""A word seen once has learnt nothing but noise."""


class WordVectors:
    """The mean of the vectors of known words: plain, or weighted by rarity (SIF, Arora et al. 2017, weights only)."""

    def __init__(self, weighted: bool = False, dimension: int = DIMENSION, epochs: int = EPOCHS) -> None:
        self.name = "word2vec-sif" if weighted else "word2vec"
        self.weighted = weighted
        self.dimension = dimension
        self.epochs = epochs
        self._vectors: Any = None
        self._rows: dict[str, int] = {}

    def fit(self, texts: Sequence[str]) -> None:
        """Minutes for a few hundred thousand texts."""
        from gensim.models import Word2Vec

        sentences = [found for found in map(words, texts) if len(found) > 1]
        model = Word2Vec(vector_size=self.dimension, window=WINDOW, min_count=LEAST, sg=1, seed=0, workers=1)
        model.build_vocab(sentences)
        if not model.wv.key_to_index:
            raise UserError(
                f"{self.name}: no word occurs {LEAST} times in {len(texts)} training texts; give more training text "
                "(fit)"
            )
        model.train(sentences, total_examples=len(sentences), epochs=self.epochs)
        counts = np.array([model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key], dtype=np.float64)
        weights = RARITY / (RARITY + counts / counts.sum()) if self.weighted else np.ones(len(counts))
        self._vectors = (model.wv.vectors * weights[:, None]).astype(np.float32)
        self._rows = dict(model.wv.key_to_index)

    def encode(self, texts: Sequence[str], side: Side = "query") -> Float32[np.ndarray, "texts dim"]:
        """Both sides alike; a text of unknown words is a zero vector."""
        if self._vectors is None:
            raise UserError(f"{self.name} has no vectors; fit it on training text (fit)")
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for index, text in enumerate(texts):
            known = [self._rows[word] for word in words(text) if word in self._rows]
            if known:
                vectors[index] = self._vectors[known].mean(axis=0)
        return vectors


TokenIds = Sequence[int]
SMOOTHING = 1e-3
"""Arora et al.'s a; they find 1e-4 to 1e-3 equally good."""


def text_ids(encoder: Encoder, texts: Sequence[str]) -> list[list[int]]:
    """Ids of the texts alone, without prompt, BOS and EOS, cut at `max_length`."""
    normalize = NORMALIZERS[encoder.config.text_normalization]
    ids = plain_ids(encoder.tokenizer, [clean_surrogates(normalize(text)) for text in texts])
    return [row[: encoder.config.max_length] for row in ids]


def input_embeddings(encoder: Encoder) -> Float[np.ndarray, "vocab dim"]:
    """The input embedding matrix as float32; rows are token ids."""
    backbone: Any = encoder.embedder.backbone
    return np.asarray(backbone.get_input_embeddings().weight.detach().float().cpu().numpy())


def token_frequencies(ids: Iterable[TokenIds], vocabulary: int) -> Float[np.ndarray, vocab]:
    """Share of each token id among all tokens, float64; count training-side text, never the texts that are scored."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for row in ids:
        counts += np.bincount(np.asarray(row, dtype=np.int64), minlength=vocabulary)
    if not counts.any():
        raise UserError("token frequencies: the training text contains no tokens; give texts that are not empty")
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def sif_vectors(
    ids: Sequence[TokenIds],
    table: Float[np.ndarray, "vocab dim"],
    frequencies: Float[np.ndarray, vocab],
    smoothing: float = SMOOTHING,
) -> NDArray[np.float32]:
    """(n, d): mean of a text's token vectors, each weighted a / (a + p(token)); zeros for a text without tokens.

    As in the paper the weighted sum is divided by the number of tokens, not by the sum of the weights.
    """
    weights = smoothing / (smoothing + frequencies)
    vectors = np.zeros((len(ids), table.shape[1]), dtype=np.float32)
    for row, tokens in enumerate(ids):
        if tokens:
            vectors[row] = weights[tokens] @ table[tokens] / len(tokens)
    return vectors


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
            raise UserError(f"{self.name} has no frequencies; fit it on training text (fit)")
        vectors = self._weighted(texts)
        return np.asarray(vectors - np.outer(vectors @ self._component, self._component), dtype=np.float32)

    def _weighted(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        return sif_vectors(text_ids(self._encoder, texts), self._table, self._frequencies)
