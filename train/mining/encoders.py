"""Encoders for mining: ours, or a sentence-transformers model of any architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from dec2vec.config.encoder_args import EncoderArgs
from dec2vec.decoder.model_folders import MARKER
from dec2vec.errors import UserError
from dec2vec.hub import check_path_exists, is_on_hub


@runtime_checkable
class Embed(Protocol):
    """Embeds texts of one side as vectors of length 1."""

    def __call__(self, texts: Sequence[str], *, document: bool) -> Float32[np.ndarray, "texts dim"]:
        """Row i for text i."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """One encoder's vectors of the anchors, positives and corpus texts, all of length 1; equal texts share a row."""

    anchors: Float32[np.ndarray, "anchors dim"]
    documents: Float32[np.ndarray, "documents dim"]
    anchor_of: np.ndarray
    positive_of: np.ndarray
    corpus_size: int

    def of_rows(self, rows: slice) -> Float32[np.ndarray, "rows dim"]:
        """The anchors' vectors."""
        return np.ascontiguousarray(self.anchors[self.anchor_of[rows]])

    def positives(self, rows: slice) -> Float32[np.ndarray, "rows dim"]:
        """The positives' vectors."""
        return np.ascontiguousarray(self.documents[self.positive_of[rows]])

    @property
    def corpus(self) -> Float32[np.ndarray, "corpus dim"]:
        """The corpus texts' vectors, which come first among the documents."""
        return self.documents[: self.corpus_size]


def embed_all(embed: Embed, anchors: Sequence[str], positives: Sequence[str], corpus: Sequence[str]) -> Vectors:
    """Embed every distinct text once. Raises UserError for vectors with inf or nan."""
    queries = {text: i for i, text in enumerate(dict.fromkeys(anchors))}
    documents = {text: i for i, text in enumerate(dict.fromkeys([*corpus, *positives]))}
    vectors = Vectors(
        anchors=embed(list(queries), document=False),
        documents=embed(list(documents), document=True),
        anchor_of=np.array([queries[text] for text in anchors], dtype=np.int64),
        positive_of=np.array([documents[text] for text in positives], dtype=np.int64),
        corpus_size=len(corpus),
    )
    if not (np.isfinite(vectors.anchors).all() and np.isfinite(vectors.documents).all()):
        raise UserError(
            "mine: vectors contain inf or nan, so they have no neighbours; use a model that encodes in float32"
        )
    return vectors


def load_embed(name: str, args: EncoderArgs) -> Embed:
    """A sentence-transformers model by that library, unless it is an export of ours; all else by our Encoder.

    A name that is not a folder is looked up on the Hub. Raises UserError for a model that can't be loaded, and for a
    prompt if the model has its own.
    """
    check_path_exists(name)
    if _has(name, "modules.json") and not _has(name, MARKER):
        if args.prompt is not None:
            raise UserError(
                f"--prompt: {name} is a sentence-transformers model with its own prompts; remove the option"
            )
        return _sentence_transformer(name, args)
    return _encoder(name, args)


def _has(name: str, file: str) -> bool:
    return (Path(name) / file).is_file() if Path(name).is_dir() else is_on_hub(name, file)


def _encoder(name: str, args: EncoderArgs) -> Embed:
    from dec2vec.encoder import Encoder

    config = args.model_config(name)
    if args.max_length is None:
        encoder = Encoder.load(config)
    else:
        encoder = Encoder.load(replace(config, max_length=args.max_length))
        encoder.set_max_length(args.max_length)  # a run folder brings its own

    def embed(texts: Sequence[str], *, document: bool) -> Float32[np.ndarray, "texts dim"]:
        return encoder.encode(
            texts, prompt=args.prompt, side="document" if document else "query", batch_tokens=args.batch_tokens
        )

    return embed


def _sentence_transformer(name: str, args: EncoderArgs) -> Embed:
    from sentence_transformers import SentenceTransformer

    device = None if args.device == "auto" else args.device
    try:
        model = SentenceTransformer(name, device=device, trust_remote_code=args.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: sentence-transformers can't load it: {str(error).splitlines()[0]}") from None
    if args.max_length is not None:
        model.max_seq_length = args.max_length

    def embed(texts: Sequence[str], *, document: bool) -> Float32[np.ndarray, "texts dim"]:
        encode = model.encode_document if document else model.encode_query
        vectors = encode(list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=None)
        return np.asarray(vectors, dtype=np.float32)

    return embed
