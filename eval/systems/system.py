"""What is compared: an encoder with a prompt, a pooling, a layer and perhaps a post-processing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dec2vec.config.model import AS_CONFIGURED, LOGIT_POOLINGS, EncodeOptions, ModelConfig, PoolingName
from dec2vec.decoder.pooling import View, belongs_to, resolve_layer
from dec2vec.decoder.published import Published
from dec2vec.decoder.published import own_view as configured_view
from dec2vec.errors import UserError
from dec2vec.inference import TokenCounts
from dec2vec.prompts.ensembles import Ensemble
from dec2vec.prompts.prompt import PUBLISHED, Side
from dec2vec.vectors.whitening import Whitening
from eval.config import PostName, SystemsConfig

LAYERS = 12
"""Candidate layers when none are named."""
SHARES = (1.0, 3 / 4, 1 / 2, 1 / 3, 1 / 4, 1 / 8)
"""Candidate k of a post-processing when none are named, as shares of d."""
TRANSDUCTIVE = "(transductive)"
"""Ends the labels of post-processings that saw the sentences that they are judged on."""

CORPUS = "(corpus)"
"""Ends the labels of post-processings that were fitted on the corpus of a search, or on the texts to be clustered."""


@runtime_checkable
class TextEncoder(Protocol):
    """The part of `dec2vec.encoder.Encoder` that an evaluation needs."""

    config: ModelConfig

    @property
    def whitening(self) -> Whitening | None:
        """The one that it exports; `encode` applies it, the raw vectors of `encode_views` are without it."""

    @property
    def tally(self) -> TokenCounts:
        """What the decoder has read so far."""

    @property
    def published(self) -> Published | None:
        """The reading of a published embedder; None for other decoders."""

    @property
    def view(self) -> View:
        """How it reads texts by itself: pooling and layer of its configuration."""

    @property
    def layer_count(self) -> int:
        """Transformer layers; hidden states are numbered 0 to this."""

    def ensemble(self, prompt: str | None = None, side: Side = "text") -> Ensemble:
        """The prompts behind `prompt`."""

    def is_cut(self, texts: Sequence[str], *, prompt: str | None = None, side: Side = "text") -> list[bool]:
        """Whether each text is longer than `config.max_length`, so that only its beginning is read."""

    def output_embeddings(self) -> NDArray[np.float32]:
        """The matrix (vocabulary, d) that turns states into logits. Raises UserError where there is none to be had."""

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
        """Vectors (n, d) as the encoder's own configuration reads them."""

    def encode_views(
        self, texts: Sequence[str], views: Sequence[View], options: EncodeOptions = AS_CONFIGURED
    ) -> Mapping[View, NDArray[np.float32]]:
        """Raw vectors of several views from one forward pass a text; perhaps read from disk on access."""

    def iter_views(
        self, texts: Sequence[str], views: Sequence[View], options: EncodeOptions = AS_CONFIGURED
    ) -> Iterator[tuple[NDArray[np.int64], dict[View, NDArray[np.float32]]]]:
        """The same as a stream of (rows, vectors by view)."""


@dataclass(frozen=True)
class Post:
    """A post-processing in one strength."""

    family: PostName
    label: str
    """The family with its strength, such as whiten-128."""
    k: int | None = None
    """Dimensions that are kept; None where the family does not come in several k."""
    is_transductive: bool = False
    """Fitted on the sentences that it is judged on: shown for comparison with the literature, never chosen."""
    fitted_on: str | None = None
    """What the task gives that it was fitted on, such as `1,400 documents of the corpus`; None for training text."""


UNTUNED, BEFORE = "untuned", "before"


def start_of(model: ModelConfig) -> str:
    """What rows are called that show the state before tuning: that of the decoder, or of an adapter that it has."""
    return UNTUNED if model.adapter is None else BEFORE


@dataclass(frozen=True)
class System:
    """A way to get vectors. `run` is None for the untuned decoder; `post` is None for raw vectors."""

    prompt: str
    view: View
    run: str | None = None
    post: Post | None = None
    start: str = UNTUNED
    """What stands before the prompt in the name of a row that is not of a run: `start_of`."""

    @property
    def name(self) -> str:
        """`untuned/<prompt>/<pooling>@<layer>[+<post>]` or `tuned/<run>[+<post>]`."""
        name = f"{self.start}/{self.prompt}/{self.view}" if self.run is None else f"tuned/{self.run}"
        return name if self.post is None else f"{name}+{self.post.label}"

    @property
    def family(self) -> PostName:
        """The post-processing without its strength; raw without one."""
        return "raw" if self.post is None else self.post.family

    @property
    def is_tuned(self) -> bool:
        return self.run is not None

    @property
    def is_transductive(self) -> bool:
        return self.post is not None and self.post.is_transductive


def candidate_layers(layers: Sequence[int | float], layer_count: int) -> list[int]:
    """Indices into the hidden states 0..layer_count. By default all up to 12, else 12 with the last two."""
    if layers:
        return sorted({resolve_layer(layer, layer_count) for layer in layers})
    if layer_count < LAYERS:
        return list(range(layer_count + 1))
    spread = np.linspace(0, layer_count - 1, LAYERS - 1).round().astype(int).tolist()
    return [*spread, layer_count]


def candidate_views(config: SystemsConfig, layer_count: int) -> list[View]:
    """Every pooling at every candidate layer; logits come from the last one alone."""
    layers = candidate_layers(config.layers, layer_count)
    return [view for pooling in config.poolings for view in _views(pooling, layers, layer_count, norm=config.norm)]


def _views(pooling: PoolingName, layers: Sequence[int], layer_count: int, *, norm: bool) -> list[View]:
    if pooling in LOGIT_POOLINGS:
        return [View(pooling, layer_count)]
    inner = [layer for layer in layers if layer < layer_count]
    return [View(pooling, layer) for layer in layers] + [View(pooling, layer, norm=True) for layer in inner if norm]


def candidate_dimensions(dimensions: Sequence[int], dimension: int) -> list[int]:
    """Candidate k, largest first, within 2..d: with k = 1 every cosine is 1 or -1."""
    wanted = dimensions or [round(share * dimension) for share in SHARES]
    usable = sorted({k for k in wanted if 2 <= k <= dimension}, reverse=True)
    if not usable:
        raise UserError(
            f"systems.dimensions {list(wanted)}: none is in 2..{dimension}, where the upper limit is the width of the "
            "vectors"
        )
    return usable


def own_view(encoder: TextEncoder) -> View:
    """How an encoder is read by itself, its layer as an index."""
    return replace(encoder.view, layer=resolve_layer(encoder.view.layer, encoder.layer_count))


def untuned_view(encoder: TextEncoder, load_start: Callable[[], TextEncoder]) -> View:
    """How what training started from is read as a tuned encoder.

    It has the Dense layers of a published base and those of an earlier run, but not those that the run has added.
    """
    own, configured = own_view(encoder), configured_view(encoder.config, encoder.published, encoder.layer_count)
    if not own.dense or configured.dense:
        return own
    return replace(own, dense=belongs_to(load_start().view, own, encoder.layer_count))


def published_system(encoder: TextEncoder) -> System | None:
    """A published embedder as it is published: its prompts, pooling, layer and Dense layers; None for others."""
    reading = encoder.published
    if reading is None:
        return None
    layer = resolve_layer(reading.layer, encoder.layer_count)
    view = View(reading.pooling, layer, dense=bool(reading.steps))
    return System(PUBLISHED, view, start=start_of(encoder.config))


def run_name(path: str) -> str:
    """`runs/a/adapter` and `runs/a` are both `a`; a Hub id is itself."""
    if not Path(path).is_dir():
        return path
    folder = Path(path).resolve()
    return folder.parent.name if folder.name in ("adapter", "model") else folder.name


PARTICULAR: tuple[PoolingName, ...] = ("first_last", "first_last_static", *LOGIT_POOLINGS)
"""Poolings that some decoders can't give."""
logger = logging.getLogger(__name__)


def usable_prompts(encoder: TextEncoder, prompts: Sequence[str]) -> list[str]:
    """Without those that leave no room for a text, or that end in an EOS which the tokenizer lacks."""
    usable: list[str] = []
    for prompt in dict.fromkeys(prompts):
        try:
            encoder.encode(["a"], prompt=prompt, progress=False)
            usable.append(prompt)
        except UserError as error:
            logger.warning("%s is skipped: %s", prompt, error)
    if not usable:
        raise UserError("systems.prompts: none of them can be used with this model; use others, such as prompteol")
    return usable


def usable_views(encoder: TextEncoder, views: Sequence[View], prompt: str) -> list[View]:
    """Without those the model can't give: layers of different width (OPT-350M), no LM head, no final norm."""
    usable: list[View] = []
    for view in views:
        try:
            if view.norm or view.pooling in PARTICULAR:
                encoder.encode_views(["a"], [view], EncodeOptions(prompt, progress=False))
            usable.append(view)
        except UserError as error:
            logger.warning("%s is skipped: %s", view, error)
    return usable
