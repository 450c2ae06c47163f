"""Word vectors trained on the text of the fit, averaged over a text's words.

word2vec by gensim (skip-gram with negative sampling, Mikolov et al. 2013), on one thread and a fixed seed, so that
the same text gives the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import Side
from eval.baselines.sif import common_component, sif_vectors, spread, without_component
from eval.baselines.words import words

DIMENSION = 200
WINDOW = 5
EPOCHS = 5
LEAST = 2
"""A word seen once has learnt nothing but noise."""


class WordVectors:
    """The mean of the vectors of known words: plain, or by SIF."""

    learns = True

    def __init__(self, weighted: bool = False, dimension: int = DIMENSION, epochs: int = EPOCHS) -> None:
        self.name = "word2vec-sif" if weighted else "word2vec"
        self.weighted = weighted
        self.dimension = dimension
        self.epochs = epochs
        self._table: Float32[np.ndarray, "vocab dim"] | None = None
        self._shares: np.ndarray = np.zeros(0)
        self._rows: dict[str, int] = {}
        self._component: Float32[np.ndarray, " dim"] | None = None

    def fit(self, texts: Sequence[str]) -> None:
        """Minutes for a few hundred thousand texts."""
        from gensim.models import Word2Vec

        sentences = [found for found in map(words, texts) if len(found) > 1]
        model = Word2Vec(vector_size=self.dimension, window=WINDOW, min_count=LEAST, sg=1, seed=0, workers=1)
        model.build_vocab(sentences)
        if not model.wv.key_to_index:
            raise UserError(
                f"{self.name}: no word occurs {LEAST} times in the {len(texts)} texts of its fit; give more text"
            )
        model.train(sentences, total_examples=len(sentences), epochs=self.epochs)
        counts = np.array([model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key], dtype=np.float64)
        self._shares = counts / counts.sum() if self.weighted else np.zeros(len(counts))
        self._table, self._rows = np.asarray(model.wv.vectors, dtype=np.float32), dict(model.wv.key_to_index)
        self._component = common_component(self._means(spread(texts))) if self.weighted else None

    def encode(self, texts: Sequence[str], side: Side | None = None) -> Float32[np.ndarray, "texts dim"]:
        """Both sides alike; a text of unknown words is a zero vector."""
        if self._table is None:
            raise UserError(f"{self.name} has no vectors; fit it on text")
        vectors = self._means(texts)
        return vectors if self._component is None else without_component(vectors, self._component)

    def _means(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        assert self._table is not None
        known = [[self._rows[word] for word in words(text) if word in self._rows] for text in texts]
        return sif_vectors(known, self._table, self._shares)
