"""Baselines that need no decoder at all. In tables each is `baseline/<name>`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from dec2vec.config.model import ModelConfig
from dec2vec.errors import UserError
from eval.baselines.baseline import Baseline
from eval.baselines.bm25 import Bm25
from eval.baselines.character_ngrams import CharacterVectors
from eval.baselines.encoder import OutsideEncoder
from eval.baselines.input_embeddings import InputEmbeddings
from eval.baselines.sparse import bag_of_words, tfidf
from eval.baselines.text_overlap import bleu, chrf, dice, jaccard, rouge_l
from eval.baselines.word_vectors import WordVectors

BASELINES: dict[str, Callable[[], Baseline]] = {
    "bag-of-words": bag_of_words,
    "tfidf": tfidf,
    "char-ngrams": CharacterVectors,
    "bm25": Bm25,
    "word2vec": WordVectors,
    "word2vec-sif": partial(WordVectors, weighted=True),
    "jaccard": jaccard,
    "dice": dice,
    "bleu": bleu,
    "chrf": chrf,
    "rouge-l": rouge_l,
}

PACKAGES = {
    "bm25": ("bm25s", "Stemmer"),
    "word2vec": ("gensim",),
    "word2vec-sif": ("gensim",),
    "bleu": ("sacrebleu",),
    "chrf": ("sacrebleu",),
    "rouge-l": ("rouge_score",),
}
"""By baseline the packages that it needs, where they come with dec2vec[eval]."""
DEFAULT = ("tfidf",)
DEFAULT_SEARCH = ("tfidf", "bm25")
"""What an evaluation that names no baselines is compared with, elsewhere and in searches: quick, and hard to beat."""
SIF = "sif"
INPUTS = (SIF, "input-embeddings")


def make_baseline(name: str, model: ModelConfig) -> Baseline:
    """By its name, or an encoder by its folder or Hub id (owner/name). Raises UserError for anything else.

    `sif` and `input-embeddings` read those of `model`, the decoder under evaluation.
    """
    if name in BASELINES:
        return BASELINES[name]()
    if name in INPUTS:
        return InputEmbeddings(model, weighted=name == SIF)
    if Path(name).is_dir() or name.count("/") == 1:
        return OutsideEncoder(name)
    known = ", ".join((*BASELINES, *INPUTS))
    raise UserError(f"baseline {name!r} is neither the folder or Hub id of an encoder nor one of {known}")
