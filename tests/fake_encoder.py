"""An encoder of hash-seeded random vectors: orchestration is tested without a model.

Words of a text add up, so that texts with common words are similar; layers and prompts differ by their noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dec2vec.config.model import AS_CONFIGURED, EncodeOptions, ModelConfig
from dec2vec.decoder.pooling import View, resolve_layer
from dec2vec.decoder.published import Published
from dec2vec.errors import UserError
from dec2vec.inference import TokenCounts
from dec2vec.prompts.ensembles import Ensemble, get_ensemble
from dec2vec.prompts.prompt import Side
from dec2vec.vectors.whitening import Whitening

WIDTH = 16


@cache
def _random(*key: object) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(WIDTH)


class FakeEncoder:
    """`noise` by layer decides which layer is good; `calls` records what was embedded."""

    def __init__(self, config: ModelConfig | None = None, *, noise: Sequence[float] = (4.0, 0.5, 1.0)) -> None:
        self.config = replace(config or ModelConfig(), name_or_path="fake")
        self.noise = noise
        self.calls: list[tuple[str, int, int]] = []
        self.tally = TokenCounts()
        self.whitening: Whitening | None = None
        self.published: Published | None = None

    @property
    def view(self) -> View:
        return View(self.config.pooling_name, self.config.pooled_layer)

    @property
    def layer_count(self) -> int:
        return len(self.noise) - 1

    def ensemble(self, prompt: str | None = None, side: Side = "text") -> Ensemble:
        return get_ensemble(self.config.prompt_name if prompt is None else prompt, self.config.task, side)

    def is_cut(self, texts: Sequence[str], *, prompt: str | None = None, side: Side = "text") -> list[bool]:
        return [len(text.split()) > self.config.token_limit for text in texts]

    def output_embeddings(self) -> NDArray[np.float32]:
        raise UserError("fake: its LM head is not tied to the input embeddings; leave embfilter out of systems.post")

    def _vector(self, text: str, view: View, prompt: str) -> NDArray[np.float64]:
        layer = resolve_layer(view.layer, self.layer_count)
        words = np.sum([_random("word", word) for word in text.split()] or [np.zeros(WIDTH)], axis=0)
        noise = self.noise[layer] * _random("noise", text, view.pooling, layer, prompt)
        return 3.0 + np.asarray(words + noise) * np.linspace(0.2, 2.0, WIDTH)

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        side: Side = "text",
        batch_tokens: int = 16_384,
        normalize: bool = True,
        progress: bool = True,
    ) -> NDArray[np.float32]:
        vectors = self.encode_views(texts, [self.view], EncodeOptions(prompt))[self.view]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True) if normalize else 1.0
        return np.asarray(vectors / norms, dtype=np.float32)

    def encode_views(
        self, texts: Sequence[str], views: Sequence[View], options: EncodeOptions = AS_CONFIGURED
    ) -> dict[View, NDArray[np.float32]]:
        name = self.config.prompt_name if options.prompt is None else options.prompt
        self.calls.append((name, len(texts), len(views)))
        return {view: np.array([self._vector(text, view, name) for text in texts], dtype=np.float32) for view in views}

    def iter_views(
        self, texts: Sequence[str], views: Sequence[View], options: EncodeOptions = AS_CONFIGURED
    ) -> Iterator[tuple[NDArray[np.int64], dict[View, NDArray[np.float32]]]]:
        for start in range(0, len(texts), 50):
            rows = np.arange(start, min(start + 50, len(texts)), dtype=np.int64)
            yield rows, self.encode_views([texts[row] for row in rows], views, options)
