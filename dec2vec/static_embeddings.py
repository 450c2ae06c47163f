"""A decoder's input embeddings as word vectors: averages weighted by how rare a token is (SIF, Arora et al. 2017).

    table = input_embeddings(encoder)                                     # (vocab, d)
    frequencies = token_frequencies(text_ids(encoder, training_texts), len(table))
    vectors = sif_vectors(text_ids(encoder, texts), table, frequencies)   # (n, d)

The plain average within a prompt is the view `mean@0` (in GPT-2 and OPT with the position embeddings added). SIF's
second step, the removal of the common component, is a post-processing like any other and not done here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import NORMALIZERS
from dec2vec.prompts.tokenizer import clean_surrogates, plain_ids

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
        raise UserError("token frequencies: the training-side text has no token; name texts that are not empty")
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
