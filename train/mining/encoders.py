"""Encoders for mining: ours, or a sentence-transformers model of any architecture."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from dec2vec.config.encoder_args import EncoderArgs
from dec2vec.decoder.model_folders import MARKER
from dec2vec.errors import UserError
from dec2vec.hub import check_path_exists, is_on_hub
from dec2vec.prompts.cut_texts import CutTexts
from dec2vec.prompts.library_cut import cut_by_library, library_limit
from dec2vec.prompts.prompt import Side
from dec2vec.runtime import importing

if TYPE_CHECKING:
    from dec2vec.encoder import Encoder


@runtime_checkable
class Embed(Protocol):
    """Embeds texts of one side as vectors of length 1."""

    def __call__(
        self, texts: Sequence[str], *, document: bool, task: str | None = None
    ) -> Float32[np.ndarray, "texts dim"]:
        """Row i for text i. `task` takes the place of the model's in a prompt that has one."""


@dataclass(frozen=True)
class Instructions:
    """What rows say their texts are to be embedded for. Texts without an instruction have the model's task."""

    queries: Sequence[str] = ()
    """Of each anchor; empty if no row has one."""
    documents: Mapping[str, str] = field(default_factory=dict)
    """By the text of the document."""


NO_INSTRUCTIONS = Instructions()


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


def embed_all(
    embed: Embed,
    anchors: Sequence[str],
    positives: Sequence[str],
    corpus: Sequence[str],
    instructions: Instructions = NO_INSTRUCTIONS,
) -> Vectors:
    """Embed every distinct text once for each of its instructions. Raises UserError for vectors with inf or nan."""
    asked = list(zip(anchors, instructions.queries or [""] * len(anchors), strict=True))
    queries = {reading: i for i, reading in enumerate(dict.fromkeys(asked))}
    documents = {text: i for i, text in enumerate(dict.fromkeys([*corpus, *positives]))}
    vectors = Vectors(
        anchors=_by_task(embed, list(queries), document=False),
        documents=_by_task(embed, [(text, instructions.documents.get(text, "")) for text in documents], document=True),
        anchor_of=np.array([queries[reading] for reading in asked], dtype=np.int64),
        positive_of=np.array([documents[text] for text in positives], dtype=np.int64),
        corpus_size=len(corpus),
    )
    if not (np.isfinite(vectors.anchors).all() and np.isfinite(vectors.documents).all()):
        raise UserError(
            "mine: vectors contain inf or nan, so they have no neighbours; use a model that encodes in float32"
        )
    return vectors


def _by_task(embed: Embed, readings: Sequence[tuple[str, str]], *, document: bool) -> Float32[np.ndarray, "texts dim"]:
    """Vectors of texts with their instructions, those of one instruction together."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, (_, task) in enumerate(readings):
        places[task].append(place)
    parts = [
        embed([readings[place][0] for place in mine], document=document, task=task or None)
        for task, mine in places.items()
    ]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts)[np.argsort(np.concatenate(list(places.values())), kind="stable")]


def embed_with(
    name: str,
    args: EncoderArgs,
    anchors: Sequence[str],
    positives: Sequence[str],
    corpus: Sequence[str],
    instructions: Instructions = NO_INSTRUCTIONS,
) -> Vectors:
    """`embed_all` with the model `name`. How many texts its max_length cuts is said on stderr."""
    loaded = load_embed(name, args)
    vectors = embed_all(loaded, anchors, positives, corpus, instructions)
    if loaded.cuts.cut:
        sys.stderr.write(f"{name}: {loaded.cuts.line(loaded.max_length)}")
    return vectors


def load_embed(name: str, args: EncoderArgs) -> OurEncoder | SentenceTransformerEncoder:
    """A sentence-transformers model by that library, unless it is an export of ours; all else by our Encoder.

    A name that is not a folder is looked up on the Hub. Raises UserError for a model that can't be loaded, and for a
    prompt if the model has its own.
    """
    check_path_exists(name)
    if _has(name, "modules.json", args.revision) and not _has(name, MARKER, args.revision):
        if args.prompt is not None:
            raise UserError(
                f"--prompt: {name} is a sentence-transformers model with its own prompts; remove the option"
            )
        return SentenceTransformerEncoder.load(name, args)
    return OurEncoder.load(name, args)


def _has(name: str, file: str, revision: str | None) -> bool:
    return (Path(name) / file).is_file() if Path(name).is_dir() else is_on_hub(name, file, revision)


@dataclass(frozen=True, eq=False)
class OurEncoder:
    """`Encoder` as an `Embed`."""

    encoder: Encoder
    args: EncoderArgs
    cuts: CutTexts

    @classmethod
    def load(cls, name: str, args: EncoderArgs) -> OurEncoder:
        """A run folder brings a max_length of its own, which the option replaces."""
        from dec2vec.encoder import Encoder

        encoder = Encoder.load(args.model_config(name), args.changes)
        encoder.cut_texts = CutTexts()
        return cls(encoder, args, encoder.cut_texts)

    @property
    def max_length(self) -> int:
        """In tokens."""
        return self.encoder.max_length

    def __call__(
        self, texts: Sequence[str], *, document: bool, task: str | None = None
    ) -> Float32[np.ndarray, "texts dim"]:
        """Row i for text i."""
        side: Side = "document" if document else "query"
        return self.encoder.encode(
            texts, prompt=self.args.prompt, side=side, task=task, batch_tokens=self.args.batch_tokens
        )


@dataclass(frozen=True, eq=False)
class SentenceTransformerEncoder:
    """A model of sentence-transformers as an `Embed`."""

    model: Any
    cuts: CutTexts

    @classmethod
    def load(cls, name: str, args: EncoderArgs) -> SentenceTransformerEncoder:
        """UserError for what the library can't load."""
        with importing():
            from sentence_transformers import SentenceTransformer

        device = None if args.device == "auto" else args.device
        kwargs = {"dtype": args.dtype, "attn_implementation": args.attention}
        try:
            model: Any = SentenceTransformer(
                name,
                device=device,
                revision=args.revision,
                trust_remote_code=args.trust_remote_code,
                model_kwargs={key: value for key, value in kwargs.items() if value is not None},
            )
        except (OSError, ValueError) as error:
            raise UserError(f"{name}: sentence-transformers can't load it: {str(error).splitlines()[0]}") from None
        if args.max_length is not None:
            model.max_seq_length = args.max_length
        return cls(model, CutTexts())

    @property
    def max_length(self) -> int | None:
        """In tokens; None for models that read texts of any length."""
        return library_limit(self.model)

    def __call__(
        self, texts: Sequence[str], *, document: bool, task: str | None = None
    ) -> Float32[np.ndarray, "texts dim"]:
        """Row i for text i. The prompts are the model's own, which have no place for a task."""
        self.cuts.add(texts, cut_by_library(self.model, texts, "document" if document else "query"))
        encode = self.model.encode_document if document else self.model.encode_query
        vectors = encode(list(texts), normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=None)
        return np.asarray(vectors, dtype=np.float32)
