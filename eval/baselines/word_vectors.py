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
from dec2vec.prompts import Side
from eval.baselines.words import words

DIMENSION = 200
WINDOW = 5
EPOCHS = 5
LEAST = 2
"""A word seen once has learnt nothing but noise."""


class WordVectors:
    """The plain mean of the vectors of known words."""

    def __init__(self, name: str = "word2vec", dimension: int = DIMENSION, epochs: int = EPOCHS) -> None:
        self.name = name
        self.dimension = dimension
        self.epochs = epochs
        self._table: Any = None

    def fit(self, texts: Sequence[str]) -> None:
        """Minutes for a few hundred thousand texts."""
        from gensim.models import Word2Vec

        sentences = [found for found in map(words, texts) if len(found) > 1]
        model = Word2Vec(vector_size=self.dimension, window=WINDOW, min_count=LEAST, sg=1, seed=0, workers=1)
        model.build_vocab(sentences)
        if not model.wv.key_to_index:
            raise UserError(f"{self.name}: no word occurs {LEAST} times in {len(texts)} training texts; give it more")
        model.train(sentences, total_examples=len(sentences), epochs=self.epochs)
        self._table = model.wv

    def encode(self, texts: Sequence[str], side: Side = "query") -> Float32[np.ndarray, "texts dim"]:
        """Both sides alike; a text of unknown words is a zero vector."""
        if self._table is None:
            raise UserError(f"{self.name}: has no vectors yet; fit it on training-side text (fit)")
        table, rows = self._table.vectors, self._table.key_to_index
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for index, text in enumerate(texts):
            known = [rows[word] for word in words(text) if word in rows]
            if known:
                vectors[index] = table[known].mean(axis=0)
        return vectors
