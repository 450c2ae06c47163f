"""The model under check, loaded by every route that its files allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dec2vec.checks.model_files import Place
from dec2vec.decoder import model_folders
from dec2vec.decoder.load import quiet
from dec2vec.encoder import Encoder
from dec2vec.errors import UserError
from dec2vec.prompts.prompt import Prompt, Side
from dec2vec.vectors.whitening import Whitening

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
class Subject:
    """`encoder` is ours, `library` the SentenceTransformer; at least one of them is there.

    What is saved in float16 is loaded in float32, so that an overflow is measured instead of spreading.
    """

    place: Place
    encoder: Encoder | None
    library: Any
    saved_dtype: str

    @property
    def routes(self) -> dict[str, Route]:
        """Texts to vectors, with the prompt of queries, as users call it."""
        found: dict[str, Route] = {}
        if self.encoder is not None:
            found["dec2vec"] = lambda texts: self.embed_ours(texts)
        if self.library is not None:
            found["sentence-transformers"] = lambda texts: self.embed_library(texts)
        return found

    def embed_ours(self, texts: Sequence[str], side: Side = "query") -> Vectors:
        """(texts, d) by our Encoder."""
        assert self.encoder is not None
        return self.encoder.encode(list(texts), side=side, progress=False)

    def embed_library(self, texts: Sequence[str], side: Side | None = None) -> Vectors:
        """(texts, d) by plain sentence-transformers, one batch; without a side, its own default prompt."""
        named = {} if side is None or side not in self.library.prompts else {"prompt_name": side}
        found = self.library.encode(list(texts), batch_size=len(texts), show_progress_bar=False, **named)
        return np.asarray(found, dtype=np.float32)

    @property
    def backbones(self) -> dict[str, Any]:
        """The decoder of each route."""
        found: dict[str, Any] = {}
        if self.encoder is not None:
            found["dec2vec"] = self.encoder.embedder.backbone
        if self.library is not None:
            found["sentence-transformers"] = self.library[0].auto_model
        return found

    @property
    def tokenizers(self) -> dict[str, Any]:
        """The tokenizer of each route."""
        found: dict[str, Any] = {}
        if self.encoder is not None:
            found["dec2vec"] = self.encoder.tokenizer
        if self.library is not None:
            found["sentence-transformers"] = self.library.tokenizer
        return found

    @property
    def is_marked(self) -> bool:
        """Whether our own file says how the model is meant to be read."""
        return self.place.artifact is not None

    @property
    def pooling(self) -> Any:
        """The Pooling module of sentence-transformers, or None."""
        return None if self.library is None else next((part for part in self.library if _is_pooling(part)), None)

    @cached_property
    def tolerance(self) -> float:
        """By the precision in which the vectors are computed."""
        kinds = {str(next(backbone.parameters()).dtype) for backbone in self.backbones.values()}
        autocast = self.encoder is not None and self.encoder.embedder.autocast
        return FLOAT32_TOLERANCE if kinds == {"torch.float32"} and not autocast else HALF_TOLERANCE

    def prompt(self, side: Side) -> Prompt | None:
        """The one prompt that our own file names; None for other models and for ensembles."""
        if self.encoder is None or not self.is_marked:
            return None
        ensemble = self.encoder.ensemble(None, side)
        return ensemble.members[0] if ensemble.is_single else None


def open_subject(place: Place) -> Subject:
    """UserError, in one line, for what can't be loaded."""
    if place.artifact is None and place.library is None and (place.folder / "adapter_config.json").is_file():
        raise UserError(
            f"model {place.folder}: a PEFT adapter without dec2vec.json or modules.json, so nothing says how its "
            "vectors are pooled; export the run with `dec2vec export`"
        )
    library = None if place.library is None else _library(place)
    encoder = None if place.artifact is None and library is not None else _encoder(place)
    return Subject(place, encoder, library, _saved_dtype(place, library, encoder))


def _encoder(place: Place) -> Encoder:
    artifact = place.artifact
    if artifact is None:
        return Encoder.from_backbone(place.config)
    encoder = Encoder.from_backbone(_wide(artifact.config), base=_wide(artifact.base))
    if artifact.adapter is not None:
        encoder.embedder.backbone = model_folders.attach_adapter(encoder.embedder.backbone, artifact.adapter)
    encoder.whitening = None if artifact.whitening is None else Whitening.load(artifact.whitening)
    return encoder


def _wide(config: Any) -> Any:
    return replace(config, dtype="float32") if config.dtype == "float16" else config


def _library(place: Place) -> Any:
    from sentence_transformers import SentenceTransformer

    device = None if place.config.device == "auto" else place.config.device
    wide = {"dtype": torch.float32} if _declared_dtype(place) == "float16" else {}
    try:
        with quiet():
            model = SentenceTransformer(
                str(place.library),
                device=device,
                trust_remote_code=place.config.trust_remote_code,
                model_kwargs={"use_safetensors": True, **wide},
            )
    except (OSError, ValueError, ImportError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".:")
        raise UserError(
            f"model {place.library}: sentence-transformers can't load it ({reason}); export or copy it again"
        ) from error
    return model.eval()


def _declared_dtype(place: Place) -> str:
    """What sentence-transformers will load: its own entry, else that of the decoder's configuration."""
    reading = place.json("sentence_bert_config.json")
    own = reading.get("model_args") or reading.get("model_kwargs") or {}  # as older and newer versions write it
    decoder = place.json("config.json")
    return str(own.get("dtype") or own.get("torch_dtype") or decoder.get("dtype") or decoder.get("torch_dtype") or "")


def _saved_dtype(place: Place, library: Any, encoder: Encoder | None) -> str:
    """float16 if any route would compute in it."""
    named: list[str] = [] if place.artifact is None else [place.artifact.config.dtype]
    if library is not None:
        kind = str(library[0].auto_model.dtype)
        named.append(_declared_dtype(place) or DTYPES.get(kind, kind))
    elif encoder is not None:
        named.append(encoder.config.dtype)
    return "float16" if "float16" in named else named[0]


def _is_pooling(module: Any) -> bool:
    return type(module).__name__ == "Pooling"
