"""Turn texts and images into vectors with a decoder, its tokenizer, a prompt, a pooling, a layer, perhaps whitening.

encoder = Encoder.load(ModelConfig(name_or_path="runs/english-8m"))
vectors = encoder.encode(["A man plays a guitar."])          # float32 (1, d), unit length
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dec2vec.config.model import AS_CONFIGURED, EncodeOptions, ModelConfig
from dec2vec.decoder import lm_head as heads
from dec2vec.decoder import model_folders
from dec2vec.decoder.assemble import assemble
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.image_reader import ImageReader
from dec2vec.decoder.library_files import find_published
from dec2vec.decoder.lora_files import put_on
from dec2vec.decoder.model_folders import Artifact, TrainedHead
from dec2vec.decoder.pooling import View, belongs_to
from dec2vec.decoder.positions import length_borders, with_max_length
from dec2vec.decoder.published import Published, PublishedModel, own_view, prompts_of
from dec2vec.decoder.start import Start, find_start
from dec2vec.decoder.vision import ReadImage
from dec2vec.decoder.weights_fit import check_rows, tokens_without_row
from dec2vec.errors import UserError
from dec2vec.images.items import Window, is_single, windows
from dec2vec.inference import ChunkedForward, Sharing, TokenCounts
from dec2vec.prompts.cut_texts import CutTexts
from dec2vec.prompts.ensembles import Ensemble
from dec2vec.prompts.prompt import NORMALIZERS, Prompt, Side
from dec2vec.prompts.tokenizer import EchoTokenizer, PromptTokenizer, Tokens, ending_ids, trailing_specials
from dec2vec.runtime import bar_options
from dec2vec.vectors.averaging import Part, Vectors, mean_over_members, unit_rows
from dec2vec.vectors.whitening import Whitening

WINDOW = 65_536
"""Number of texts that are tokenized and sorted by length together. It limits the ids held in memory."""
ENSEMBLE_WINDOW = 4096
"""The same for an ensemble, which holds sums of vectors until every member has embedded the window."""
ENSEMBLE_BYTES = 256 << 20
"""Largest size of these sums. With many views the window is smaller."""


class Encoder:
    """A decoder that embeds texts, and images if it reads them. A vector depends on its own input only."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: PreTrainedTokenizerBase,
        embedder: Embedder,
        whitening: Whitening | None = None,
        base: ModelConfig | None = None,
        published: Published | None = None,
    ) -> None:
        self.config = replace(config, tokenization=config.tokenization or "joint")
        self.tokenizer = tokenizer
        self.embedder = embedder
        self.whitening = whitening
        self.share_prefix = True
        """If off, a prompt is computed again for every text instead of once for all texts."""
        self.tally = TokenCounts()
        """Counts of all texts so far."""
        self.cut_texts: CutTexts | None = None
        """If it is set, every text that is embedded is counted in it."""
        self.sharing: Sharing | None = None
        """If it is set, other processes that embed the same texts compute a part of them."""
        self.base = base or config
        """Where the files of the decoder are; an adapter may be loaded on top of it."""
        self.published = published
        """The reading of a published embedder, or of the one that it was tuned from; None for other decoders."""
        self._head: heads.LMHead | None = None

    @classmethod
    def load(cls, config: ModelConfig, changes: Mapping[str, Any] = MappingProxyType({})) -> Encoder:
        """Load a Hub id, a model folder, a run folder, an adapter folder or an exported `model/` folder.

        A folder written by dec2vec has its own prompt, pooling, layer and so on. Of `config` only the device then
        counts, and whether foreign code may run. `changes` are options that replace those of the folder too. A
        published embedder (a folder of sentence-transformers) is read as its files say wherever `config` says nothing.
        """
        if config.adapter is not None:
            return cls.from_start(find_start(replace(config, **changes)))
        artifact = model_folders.find(config)
        if artifact is not None:
            return cls.from_artifact(artifact.changed(changes))
        config = replace(config, **changes)
        published = find_published(config)
        if published is None:
            return cls.from_backbone(config)
        return cls.from_backbone(config, base=published.base(config), published=published)

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Encoder:
        """A tuned encoder from its folder: the base, its adapter if it has one, and its whitening."""
        encoder = cls.from_backbone(artifact.config, base=artifact.base, published=artifact.published)
        encoder.put_head(artifact.head)
        if artifact.adapter is not None:
            encoder.embedder.backbone = model_folders.attach_adapter(encoder.embedder.backbone, artifact.adapter)
        encoder.whitening = None if artifact.whitening is None else Whitening.load(artifact.whitening)
        return encoder

    @classmethod
    def from_start(cls, start: Start) -> Encoder:
        """What a run starts from: a decoder with an adapter, or without one."""
        encoder = cls.from_backbone(start.config, base=start.base, published=start.published)
        encoder.put_head(start.head)
        if start.adapter is not None:
            encoder.embedder.backbone = put_on(encoder.embedder.backbone, start.adapter.folder, trainable=False)
        return encoder

    @classmethod
    def from_backbone(
        cls, config: ModelConfig, *, base: ModelConfig | None = None, published: PublishedModel | None = None
    ) -> Encoder:
        """The untuned decoder at `base` (by default at `config`) with the prompt, pooling and layer of `config`.

        What `config` leaves open is that of `published`, or the default of a plain decoder.
        """
        parts = assemble(config, base or config, published)
        reading = None if published is None else published.reading
        return cls(parts.config, parts.tokenizer, parts.embedder, base=base, published=reading)

    def put_head(self, head: TrainedHead | None) -> None:
        """Use the Dense layers that a run has trained, if pooling and layer are those that they were trained on."""
        if head is not None and head.fits(self.embedder.view, self.layer_count):
            self.embedder.put_head(head.module.to(self.device).eval())

    def set_max_length(self, tokens: int) -> None:
        """Change the length to which texts are cut. UserError if the decoder has fewer positions."""
        self.config = with_max_length(replace(self.config, max_length=tokens), self._backbone.config.get_text_config())

    @property
    def max_length(self) -> int:
        """The number of tokens to which a text with its prompt is cut."""
        return self.config.token_limit

    @cached_property
    def length_borders(self) -> list[int]:
        """The numbers of tokens above which positions change; no pass has texts on both sides."""
        return length_borders(self._backbone.config.get_text_config())

    @property
    def _backbone(self) -> Any:
        return self.embedder.backbone

    @cached_property
    def image_reader(self) -> ImageReader:
        """How images become tokens and pixels. UserError for a decoder of texts, and without Pillow."""
        return ImageReader.load(self.base, self.tokenizer, self._backbone.config)

    @property
    def view(self) -> View:
        """How `encode` reads a text: pooling and layer of the configuration."""
        return self._view(self.config)

    def _view(self, config: ModelConfig) -> View:
        """As in `config`, with the Dense layers that belong to its pooling and layer."""
        view = own_view(config, self.published, self.layer_count)
        return replace(view, dense=view.dense or belongs_to(self.embedder.view, view, self.layer_count))

    @property
    def layer_count(self) -> int:
        """The number n of transformer layers. Hidden states are numbered from 0 (input embeddings) to n."""
        return self.embedder.layer_count

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.embedder.parameters()).device

    def output_embeddings(self) -> Vectors:
        """The LM head (vocabulary, d), which has to be tied to the input embeddings; UserError for other decoders."""
        return heads.tied_embeddings(self.embedder.backbone, self.config.name_or_path)

    @property
    def dimension(self) -> int:
        """The length of the vectors that `encode` returns."""
        if self.whitening is not None:
            return int(self.whitening.kernel.shape[1])
        return int(self.encode(["a"], progress=False).shape[1])

    def lm_head(self) -> heads.LMHead:
        """The decoder's LM head, loaded when it is first needed for a view of logits. UserError if it has none."""
        if self._head is None:
            self._head = heads.load_lm_head(self.base, self._backbone.get_input_embeddings().weight)
        return self._head

    def tokenize(
        self, texts: Sequence[str], *, prompt: str | None = None, side: Side = "text", task: str | None = None
    ) -> list[list[int]]:
        """The ids of each text with its prompt and EOS, at most `config.max_length` of them.

        A long text is cut; its prompt never is. An empty text gives the prompt and EOS. Lone surrogates become U+FFFD.
        """
        ensemble = self.ensemble(prompt, side, task)
        if not ensemble.is_single:
            raise UserError(
                f"tokenize: {prompt or self.config.prompt_name} consists of {len(ensemble.members)} prompts; use a "
                "single prompt"
            )
        return self.tokenize_with(ensemble.members[0], texts)

    def tokenize_with(self, member: Prompt, texts: Sequence[str]) -> list[list[int]]:
        """`tokenize` with one prompt of an ensemble."""
        return self._tokens(self._wrap(member), self._normalized(texts)).ids

    @cached_property
    def tokens_without_row(self) -> dict[int, str]:
        """The tokens, by id, that are beyond the embeddings: a text with one of them is refused."""
        return tokens_without_row(self.tokenizer, self._backbone.get_input_embeddings())

    def _tokens(
        self, wrap: PromptTokenizer | EchoTokenizer, texts: list[str], window: Window[ReadImage] | None = None
    ) -> Tokens:
        tokens = self.image_reader.tokens(wrap, texts, window) if window and window.images else wrap(texts)
        check_rows(self.config.name_or_path, tokens.ids, texts, self.tokens_without_row)
        return tokens

    def is_cut(
        self, texts: Sequence[str], *, prompt: str | None = None, side: Side = "text", task: str | None = None
    ) -> list[bool]:
        """Whether `max_length` cuts each text, with any of its prompts if there are several."""
        normalized = self._normalized(texts)
        flags = [self._wrap(member).is_cut(normalized) for member in self.ensemble(prompt, side, task).members]
        return [any(of_text) for of_text in zip(*flags, strict=True)]

    def ensemble(self, prompt: str | None = None, side: Side = "text", task: str | None = None) -> Ensemble:
        """The prompts that `prompt` stands for, usually a single one. None stands for what is configured."""
        config = self.config if prompt is None else replace(self.config, prompt=prompt)
        config = config if task is None else replace(config, task=task)
        return prompts_of(self.published, self.tokenizer, config, side)

    @cached_property
    def ending(self) -> list[int]:
        """The tokens after a text, unless the prompt ends in words of its own.

        EOS, or what the tokenizer of a published embedder appends, which may be nothing.
        """
        return ending_ids(self.tokenizer, None if self.published is None else trailing_specials(self.tokenizer))

    def _wrap(self, prompt: Prompt) -> PromptTokenizer | EchoTokenizer:
        ending = None if self.published is None else self.ending
        if prompt.repeat is not None:
            return EchoTokenizer(self.tokenizer, prompt, self.max_length, ending)
        return PromptTokenizer(self.tokenizer, prompt, self.max_length, self.config.tokenization or "joint", ending)

    def _normalized(self, texts: Sequence[str]) -> list[str]:
        return list(map(NORMALIZERS[self.config.text_normalization], texts))

    def encode(
        self,
        texts: Sequence[object],
        *,
        prompt: str | None = None,
        side: Side = "text",
        task: str | None = None,
        batch_tokens: int = 16_384,
        normalize: bool = True,
        progress: bool = True,
    ) -> Vectors:
        """Vectors of the inputs as float32 (n, d), in their order; an empty list gives shape (0, d).

        An input is a text, an image (a `Path`, the bytes of a file, an image of Pillow, a cell of `datasets`), or both
        as `{"text": ..., "image": ...}`, where the image may be a path as a string too.
        With another `prompt` than the configured one, the layer is that of its publication unless `config.layer` is
        set. `task` is what the prompt inserts for `{task}` in place of the configured one.
        """
        if is_single(texts):
            raise UserError("encode: got a single input; give a list of texts or images")
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        config = self.config if prompt is None else replace(self.config, prompt=prompt)
        view = self._view(config)
        options = EncodeOptions(prompt, side, batch_tokens, progress, task)
        vectors = self.encode_views(texts, [view], options)[view]
        if self.whitening is not None:
            vectors = self.whitening.apply(vectors)
        return unit_rows(vectors) if normalize else vectors

    def encode_views(
        self, texts: Sequence[object], views: Sequence[View], options: EncodeOptions = AS_CONFIGURED
    ) -> dict[View, Vectors]:
        """Raw vectors of several views from one forward pass per text. UserError for logits that exceed the memory."""
        if heads.reads_logits(views):
            heads.check_room(len(texts), views, self.lm_head())
        collected: dict[View, Vectors] = {}
        for rows, by_view in self.iter_views(texts, views, options):
            for view, vectors in by_view.items():
                if view not in collected:
                    collected[view] = np.empty((len(texts), vectors.shape[1]), dtype=np.float32)
                collected[view][rows] = vectors
        return collected

    def iter_views(
        self, texts: Sequence[object], views: Sequence[View], options: EncodeOptions = AS_CONFIGURED
    ) -> Iterator[tuple[NDArray[np.int64], dict[View, Vectors]]]:
        """Yield (rows, raw vectors by view) for one chunk at a time. Each row comes once, in no particular order."""
        ensemble = self.ensemble(options.prompt, options.side, options.task)
        window = WINDOW if ensemble.is_single else self._ensemble_window(views)
        total = len(texts) * len(ensemble.members)
        with tqdm(total=total, desc="encode", unit="text", **bar_options(shown=options.progress)) as bar:
            for part in windows(texts, window, lambda *image: self.image_reader.read(*image), self.config.max_pixels):
                for rows, vectors in self._read(part, ensemble, views, options.batch_tokens, bar):
                    yield part.first + rows, dict(zip(views, vectors, strict=True))

    def _read(
        self, window: Window[ReadImage], ensemble: Ensemble, views: Sequence[View], batch_tokens: int, bar: tqdm[Any]
    ) -> Iterator[Part]:
        """Embed a window of inputs: chunk by chunk for a single prompt, at once for an ensemble."""
        texts = self._normalized(window.texts)

        def stream(member: Prompt) -> Iterator[Part]:
            wrap, state_views = self._wrap(member), list(map(heads.state_view, views))
            options = (batch_tokens, self.share_prefix, self.tally, self.sharing, window.images)
            forward = ChunkedForward(self.embedder, state_views, wrap.starts, *options)
            tokens = self._tokens(wrap, texts, window)
            if self.cut_texts is not None:
                self.cut_texts.add(texts, tokens.is_cut)
            parts = forward(tokens.ids)
            if heads.reads_logits(views):
                parts = heads.with_logits(parts, views, self.lm_head())
            for rows, vectors in parts:
                bar.update(len(rows))
                yield rows, vectors

        if ensemble.is_single:
            yield from stream(ensemble.members[0])
        else:
            members = [stream(member) for member in ensemble.members]
            yield np.arange(len(texts), dtype=np.int64), mean_over_members(members, len(texts), unit=ensemble.unit)

    def _ensemble_window(self, views: Sequence[View]) -> int:
        hidden = int(self._backbone.config.get_text_config().hidden_size)
        widths = [len(self.lm_head().weight) if heads.reads_logits([view]) else hidden for view in views]
        return max(1, min(ENSEMBLE_WINDOW, ENSEMBLE_BYTES // (4 * sum(widths))))
