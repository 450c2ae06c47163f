"""The model that is checked, loaded by dec2vec and by sentence-transformers if its files allow both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dec2vec.checks.model_files import ModelFiles
from dec2vec.decoder.library_calls import quiet
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import Prompt, Side
from dec2vec.runtime import importing

Vectors = NDArray[np.float32]
Route = Callable[[Sequence[str]], Vectors]
PROBES = (
    "A man is playing a guitar.",
    "The recipe needs two eggs, a cup of flour and some patience while the oven warms up.",
    "stocks fell",
    "A woman reads the newspaper on a train that is late once more, as it was yesterday and the day before.",
    "na\u00efve caf\u00e9 \u6771\u4eac",
)
DTYPES = {"torch.float32": "float32", "torch.float16": "float16", "torch.bfloat16": "bfloat16"}
FLOAT32_TOLERANCE, HALF_TOLERANCE = 1e-3, 2e-2
"""Largest difference of two unit vectors that rounding explains."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """The model as our `encoder`, as a SentenceTransformer (`library`), or as both.

    Weights saved in float16 are loaded in float32, so that an overflow can be measured.
    """

    files: ModelFiles
    encoder: Encoder | None
    library: Any
    saved_dtype: str
    unread: str = ""
    """Why dec2vec can't read a folder of sentence-transformers; empty if it can."""

    @property
    def routes(self) -> dict[str, Route]:
        """By library, the function that embeds texts with the prompt of queries, as users call it."""
        routes: dict[str, Route] = {}
        if self.encoder is not None:
            routes["dec2vec"] = lambda texts: self.embed_ours(texts)
        if self.library is not None:
            routes["sentence-transformers"] = lambda texts: self.embed_library(texts)
        return routes

    def embed_ours(self, texts: Sequence[str], side: Side = "text") -> Vectors:
        """Vectors of dec2vec's Encoder."""
        assert self.encoder is not None
        return self.encoder.encode(list(texts), side=side, progress=False)

    def embed_library(self, texts: Sequence[str], side: Side | None = None) -> Vectors:
        """Vectors of sentence-transformers, computed in one batch. Without a side it uses its default prompt."""
        named = {} if side is None or side not in self.library.prompts else {"prompt_name": side}
        vectors = self.library.encode(list(texts), batch_size=len(texts), show_progress_bar=False, **named)
        return np.asarray(vectors, dtype=np.float32)

    @property
    def backbones(self) -> dict[str, Any]:
        """The decoder, by library."""
        backbones: dict[str, Any] = {}
        if self.encoder is not None:
            backbones["dec2vec"] = self.encoder.embedder.backbone
        if self.library is not None:
            backbones["sentence-transformers"] = self.library[0].auto_model
        return backbones

    @property
    def tokenizers(self) -> dict[str, Any]:
        """The tokenizer, by library."""
        tokenizers: dict[str, Any] = {}
        if self.encoder is not None:
            tokenizers["dec2vec"] = self.encoder.tokenizer
        if self.library is not None:
            tokenizers["sentence-transformers"] = self.library.tokenizer
        return tokenizers

    @property
    def is_marked(self) -> bool:
        """Whether dec2vec.json says how the model pools, and with which prompt."""
        return self.files.artifact is not None

    @property
    def pooling(self) -> Any:
        """The Pooling module of sentence-transformers, or None."""
        return None if self.library is None else next((part for part in self.library if _is_pooling(part)), None)

    @cached_property
    def tolerance(self) -> float:
        """The largest difference that rounding explains, given the precision of the computation."""
        kinds = {str(next(backbone.parameters()).dtype) for backbone in self.backbones.values()}
        autocast = self.encoder is not None and self.encoder.embedder.autocast is not None
        return FLOAT32_TOLERANCE if kinds == {"torch.float32"} and not autocast else HALF_TOLERANCE

    def prompt(self, side: Side) -> Prompt | None:
        """The prompt that dec2vec.json names; None for other models and for ensembles of prompts."""
        if self.encoder is None or not self.is_marked:
            return None
        ensemble = self.encoder.ensemble(None, side)
        return ensemble.members[0] if ensemble.is_single else None


def load_model(files: ModelFiles) -> LoadedModel:
    """Load the model by every library that its files allow. Raises UserError if one of them fails."""
    library = None if files.library is None else _library(files)
    encoder: Encoder | None
    if files.artifact is not None or library is None:
        encoder, unread = _encoder(files), ""
    else:
        encoder, unread = _published(files, library)
    return LoadedModel(files, encoder, library, _saved_dtype(files, library, encoder), unread)


def _published(files: ModelFiles, library: Any) -> tuple[Encoder | None, str]:
    """A folder of sentence-transformers as the verbs read it, in the dtype of that library; or why they don't.

    Without autocast, so that a difference of the two libraries is not taken for rounding.
    """
    config = replace(files.config, autocast="off")
    if config.dtype == "float32" and str(getattr(library[0], "dtype", "")) == "torch.bfloat16":
        config = replace(config, dtype="bfloat16")
    try:
        return Encoder.load(config), ""
    except UserError as error:
        return None, str(error)


def _encoder(files: ModelFiles) -> Encoder:
    artifact = files.artifact
    if artifact is None:
        return Encoder.from_backbone(files.config)
    return Encoder.from_artifact(replace(artifact, config=_wide(artifact.config), base=_wide(artifact.base)))


def _wide(config: Any) -> Any:
    return replace(config, dtype="float32") if config.dtype == "float16" else config


def _library(files: ModelFiles) -> Any:
    with importing():
        from sentence_transformers import SentenceTransformer

    device = None if files.config.device == "auto" else files.config.device
    wide = {"dtype": torch.float32} if _declared_dtype(files) == "float16" else {}
    try:
        with quiet():
            library = SentenceTransformer(
                str(files.library),
                device=device,
                trust_remote_code=files.config.trust_remote_code,
                model_kwargs={"use_safetensors": True, **wide},
            )
    except (OSError, ValueError, ImportError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".:")
        raise UserError(
            f"model {files.library}: sentence-transformers can't load it ({reason}); export or copy it again"
        ) from error
    return library.eval()


def _declared_dtype(files: ModelFiles) -> str:
    """The dtype that sentence-transformers will use: that of its own file, else of the decoder's configuration."""
    saved = files.json("sentence_bert_config.json")
    kwargs = saved.get("model_args") or saved.get("model_kwargs") or {}  # as older and newer versions write it
    decoder = files.json("config.json")
    return str(
        kwargs.get("dtype") or kwargs.get("torch_dtype") or decoder.get("dtype") or decoder.get("torch_dtype") or ""
    )


def _saved_dtype(files: ModelFiles, library: Any, encoder: Encoder | None) -> str:
    """float16 if one of the libraries would compute in it."""
    dtypes: list[str] = [] if files.artifact is None else [files.artifact.config.dtype]
    if library is not None:
        kind = str(library[0].auto_model.dtype)
        dtypes.append(_declared_dtype(files) or DTYPES.get(kind, kind))
    elif encoder is not None:
        dtypes.append(encoder.config.dtype)
    return "float16" if "float16" in dtypes else dtypes[0]


def _is_pooling(module: Any) -> bool:
    return type(module).__name__ == "Pooling"
