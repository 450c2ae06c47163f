"""Word vectors trained on the training-side text, averaged over a text's words.

word2vec by gensim (skip-gram with negative sampling, Mikolov et al. 2013), on one thread and a fixed seed, so that
the same text gives the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from dec2vec.errors import UserError
from dec2vec.prompts.prompt import Side
from eval.baselines.words import words

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
            raise UserError(f"{self.name}: no word occurs {LEAST} times in {len(texts)} training texts; give it more")
        model.train(sentences, total_examples=len(sentences), epochs=self.epochs)
        counts = np.array([model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key], dtype=np.float64)
        weights = RARITY / (RARITY + counts / counts.sum()) if self.weighted else np.ones(len(counts))
        self._vectors = (model.wv.vectors * weights[:, None]).astype(np.float32)
        self._rows = dict(model.wv.key_to_index)

    def encode(self, texts: Sequence[str], side: Side = "query") -> Float32[np.ndarray, "texts dim"]:
        """Both sides alike; a text of unknown words is a zero vector."""
        if self._vectors is None:
            raise UserError(f"{self.name}: has no vectors yet; fit it on training-side text (fit)")
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for index, text in enumerate(texts):
            known = [self._rows[word] for word in words(text) if word in self._rows]
            if known:
                vectors[index] = self._vectors[known].mean(axis=0)
        return vectors
