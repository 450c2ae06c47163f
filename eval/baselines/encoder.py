"""Any sentence-transformers model, or bare Hugging Face encoder (read by mean pooling), as a baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from dec2vec.errors import UserError
from dec2vec.hub import check_path_exists
from dec2vec.prompts.library_cut import cut_by_library, library_limit
from dec2vec.prompts.prompt import Side
from dec2vec.runtime import importing
from eval.baselines.baseline import Baseline
from eval.results.truncation import Truncation, sides_of
from eval.systems.system import run_name
from eval.tasks.task import Task

BATCH = 32


class OutsideEncoder:
    """Texts of a search go in as the model's own `encode_query` and `encode_document` prepare them, others as `encode`.

    A query prompt would tell the model that a sentence of a pair, or a text with a topic, is a question.
    """

    learns = False

    def __init__(self, path: str, device: str | None = None) -> None:
        """UserError for the path of no folder."""
        check_path_exists(path, "baseline")
        self.name = run_name(path)
        self.path = path
        self.device = device
        self._model: Any = None

    def fit(self, texts: Sequence[str]) -> None:
        """It comes trained."""

    def encode(self, texts: Sequence[str], side: Side | None = None) -> Float32[np.ndarray, "texts dim"]:
        """The model is loaded on first use. Raises UserError where it can't be."""
        model = self.load()
        if not texts:
            return np.empty((0, model.get_embedding_dimension() or 1), dtype=np.float32)
        encode = {None: model.encode, "query": model.encode_query, "document": model.encode_document}[side]
        vectors = encode(list(texts), batch_size=BATCH, convert_to_numpy=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32).reshape(len(texts), -1)

    def is_cut(self, texts: Sequence[str], side: Side | None = None) -> list[bool]:
        """Whether each text, with the model's own prompt, is longer than the library reads."""
        model = self.load()
        return cut_by_library(model, texts, side or getattr(model, "default_prompt_name", None))

    def load(self) -> Any:
        """The model, read once. Raises UserError where it is no encoder."""
        if self._model is None:
            with importing():
                from sentence_transformers import SentenceTransformer

            try:
                self._model = SentenceTransformer(self.path, device=self.device)
            except (OSError, ValueError, KeyError) as error:
                raise UserError(f"baseline {self.path} cannot be loaded as an encoder: {error}") from None
        return self._model


def outside_truncation(baselines: Sequence[Baseline], tasks: Sequence[Task[Any]]) -> Iterator[Truncation]:
    """By encoder, task and side; encoders that read texts of any length have no row."""
    for baseline in baselines:
        if not isinstance(baseline, OutsideEncoder):
            continue
        limit = library_limit(baseline.load())
        for task in tasks if limit is not None else ():
            for part, texts, side in sides_of(task):
                cut = sum(baseline.is_cut(texts, None if part == "texts" else side))
                yield Truncation(task.name, part, baseline.name, None, None, limit or 0, len(texts), cut)
