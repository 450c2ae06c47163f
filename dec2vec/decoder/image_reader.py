"""Turn an image into tensors and tokens of a vision-language decoder, by the family's own processor of transformers.

The processor is put together from its image part on Pillow and the tokenizer. Its own loader insists on a video part in
several families, which needs torchvision; and Pillow's pixels are the same on every machine.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from dec2vec.config.model import ModelConfig
from dec2vec.decoder.library_calls import one_line, quiet
from dec2vec.decoder.positions import position_limit
from dec2vec.decoder.vision import ReadImage, family_of
from dec2vec.errors import UserError, check_installed
from dec2vec.prompts.image_prompts import ImageMarks, with_image
from dec2vec.prompts.tokenizer import EchoTokenizer, PromptTokenizer, Tokens, plain_ids

if TYPE_CHECKING:
    from PIL.Image import Image

_INPUTS = ("pixel_values", "pixel_attention_mask", "image_grid_thw")
"""What the decoders take of an image; processors return further figures for the text."""
_FIX = "copy preprocessor_config.json and processor_config.json of the model into its folder"


@runtime_checkable
class WithImages(Protocol):
    """Texts' images: of each text the number of its image, or None, and the images by number."""

    @property
    def numbers(self) -> Sequence[int | None]: ...

    @property
    def images(self) -> Sequence[ReadImage]: ...


@dataclass(frozen=True, eq=False)
class ImageReader:
    """The processor of a decoder, its tokenizer and its configuration."""

    name: str
    processor: Any
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig

    @classmethod
    def load(cls, config: ModelConfig, tokenizer: PreTrainedTokenizerBase, decoder: PretrainedConfig) -> ImageReader:
        """The reader of the decoder at `config`. UserError for one that reads texts only, and without Pillow."""
        family = family_of(decoder)
        if family is None:
            raise UserError(
                f"model {config.name_or_path}: a {decoder.model_type} reads texts only; for images use a "
                "vision-language decoder, such as Qwen3-VL or SmolVLM"
            )
        check_installed("PIL", "vision", "images")
        with quiet(), one_line(config.name_or_path, "image processor of", _FIX):
            processor = _processor(getattr(transformers, family.processor), config, tokenizer)
        if getattr(processor, "patch_size", 0) is None:  # LLaVA
            raise UserError(f"model {config.name_or_path}: its files do not say patch_size of the processor; {_FIX}")
        reader = cls(config.name_or_path, processor, tokenizer, decoder)
        reader._check_token()
        return reader

    def read(self, image: Image, where: str) -> ReadImage:
        """The tensors of one RGB image, and how it is written. UserError for a shape that the decoder can't take."""
        try:
            with quiet():
                options = {**self._options, "return_tensors": "pt"}
                found, (written,) = self.processor._process_images([image], **options)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a few pixels, or of a line, a processor may make anything
            lines = str(error).split("\n") if str(error).strip() else [type(error).__name__]
            reason = lines[0][:160].rstrip(".")
            raise UserError(
                f"{where}: {self.config.model_type} can't read this shape of image ({reason}); use another one"
            ) from None
        tensors = {name: found[name] for name in _INPUTS if name in found}
        pixels = tensors["pixel_values"]
        side = int(self._vision.patch_size)
        patches = len(pixels) if pixels.ndim == 2 else pixels.numel() // (pixels.shape[-3] * side * side)
        return ReadImage(tensors, written, patches, where)

    def tokens(self, wrap: PromptTokenizer | EchoTokenizer, texts: list[str], window: WithImages) -> Tokens:
        """The ids of texts with and without images, where an id of -1 - k stands for a part of image k.

        `max_length` limits the text and its prompt. An image's own tokens, which its processor limits, come on top.
        """
        if isinstance(wrap, EchoTokenizer):
            raise UserError("prompt 'echo' can't be used with images, because it repeats a text; use another one")
        groups: dict[tuple[str | None, bool], list[int]] = {}
        for row, number in enumerate(window.numbers):
            written = None if number is None else window.images[number].written
            groups.setdefault((written, bool(texts[row])), []).append(row)
        ids: list[list[int]] = [[]] * len(texts)
        is_cut = [False] * len(texts)
        for (written, has_text), rows in groups.items():
            around = wrap if written is None else self._around(wrap, written, has_text=has_text)
            found = around([texts[row] for row in rows])
            for row, of_row, flag in zip(rows, found.ids, found.is_cut, strict=True):
                number = window.numbers[row]
                if number is None:
                    ids[row] = of_row
                else:
                    ids[row] = self._numbered(of_row, number, window.images[number], texts[row])
                is_cut[row] = flag
        return Tokens(ids, is_cut)

    def _around(self, wrap: PromptTokenizer, written: str, *, has_text: bool) -> PromptTokenizer:
        """The tokenizer of texts with this image, as the prompt writes the two."""
        prompt = with_image(wrap.prompt, self._marks, has_text=has_text)
        token = self._marks.token
        prompt = replace(
            prompt, prefix=prompt.prefix.replace(token, written), suffix=prompt.suffix.replace(token, written)
        )
        return wrap.with_prompt(prompt, room=len(plain_ids(self.tokenizer, [written])[0]))

    def _numbered(self, ids: list[int], number: int, image: ReadImage, text: str) -> list[int]:
        """The ids with -1 - number for the image token. UserError if the text has one too, or for too many tokens."""
        config: Any = self.config
        wanted = image.written.count(self._image_token)
        if ids.count(config.image_token_id) != wanted:
            raise UserError(
                f"the text {text[:40]!r} beside the image of {image.where} contains {self._image_token!r}, by which "
                "the model marks images; remove it"
            )
        limit = position_limit(config.get_text_config())
        if limit is not None and len(ids) > limit:
            raise UserError(
                f"{image.where}: this image and its text are {len(ids):,} tokens, and the decoder has {limit:,} "
                "positions; make the image smaller, or set a smaller size in preprocessor_config.json"
            )
        return [-1 - number if id == config.image_token_id else id for id in ids]

    @property
    def digest(self) -> str:
        """sha256 of the settings on which the pixels and tokens of an image depend."""
        settings = str(self.processor.image_processor.to_json_string()) + self._mark_settings
        return hashlib.sha256(settings.encode()).hexdigest()

    @property
    def _mark_settings(self) -> str:
        plain = {key: value for key, value in vars(self.processor).items() if isinstance(value, str | int | float)}
        return json.dumps(plain, sort_keys=True)

    @property
    def _image_token(self) -> str:
        config: Any = self.config
        return str(self.tokenizer.convert_ids_to_tokens(config.image_token_id))

    @property
    def _vision(self) -> Any:
        config: Any = self.config
        return config.vision_config

    @cached_property
    def _options(self) -> dict[str, Any]:
        """The options of the processor for images: those of its class, and those in its files."""
        merged = self.processor._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs)
        found: dict[str, Any] = merged["images_kwargs"]
        return found

    @cached_property
    def _marks(self) -> ImageMarks:
        """How the family writes a single image into a text, before it is expanded."""
        token = str(self.processor.image_token)
        config = vars(self.config)
        around = [config.get(f"vision_{end}_token_id") for end in ("start", "end")]
        before, after = ("" if id is None else str(self.tokenizer.convert_ids_to_tokens(id)) for id in around)
        template = self.tokenizer.chat_template or self.processor.chat_template
        return ImageMarks(token, before, after, self.tokenizer, template, self._layout)

    def _layout(self, written: str) -> str:
        """The whole text with its image token as the processor orders it: PaliGemma puts BOS behind the image."""
        from PIL import Image

        _, texts, *_ = self.processor.prepare_inputs_layout(images=[Image.new("RGB", (1, 1))], text=written)
        return str(texts if isinstance(texts, str) else texts[0])

    def _check_token(self) -> None:
        """UserError if the tokenizer has no token for images, or another one than the decoder."""
        config: Any = self.config
        id, count = config.image_token_id, len(self.tokenizer)
        token = self.tokenizer.convert_ids_to_tokens(id) if id < count else None
        if token is None or plain_ids(self.tokenizer, [str(token)])[0] != [id]:
            raise UserError(
                f"model {self.name}: its tokenizer has no token {id}, by which config.json marks images; use the "
                "tokenizer that belongs to these weights"
            )


def _processor(kind: type[Any], config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The processor without a video part, around a copy of the tokenizer, which some processors change."""
    from transformers import AutoImageProcessor  # which needs Pillow

    place = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    image_part = AutoImageProcessor.from_pretrained(config.name_or_path, backend="pil", **place)
    options, _ = kind.get_processor_dict(config.name_or_path, revision=config.revision)
    parts = {"image_processor": image_part, "tokenizer": copy.deepcopy(tokenizer), "video_processor": None}
    wanted = inspect.signature(kind.__init__).parameters
    chosen = {name: part for name, part in parts.items() if name in wanted}
    settings = {name: value for name, value in options.items() if name in wanted and name not in parts}
    return _without_video(kind)(**chosen, **settings)


def _without_video(kind: type[Any]) -> type[Any]:
    """The class, which accepts that there is no video part."""

    def check(self: Any, name: str, part: object) -> object:
        return None if part is None else kind.check_argument_for_proper_class(self, name, part)

    attributes: Mapping[str, Any] = {"check_argument_for_proper_class": check}
    return type(kind.__name__, (kind,), dict(attributes))
