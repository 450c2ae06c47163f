"""Prompts around an image, with or without a text: `{image}` of a template, a published template, or the chat template.

A prompt for texts becomes one for images by these rules. A template with `{image}` says itself where the image goes. A
published one calls it what it is if there is no text (`This image : "..." means in one word:"`). In every other prompt
the image comes directly before the text, as chat templates of vision-language decoders have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from dec2vec.errors import UserError
from dec2vec.prompts.chat import TEXT_MARK, rendered
from dec2vec.prompts.prompt import CHAT_NAMES, IMAGE, SLOT, Prompt

_WORDS = (("a sentence", "an image"), ("sentence", "image"), ("这句话", "这张图片"), ("句子", "图片"))
"""What published templates call a text, and what they call an image."""


@dataclass(frozen=True, eq=False)
class ImageMarks:
    """How a family writes one image into a text."""

    token: str
    """What its processor replaces by the tokens of the image."""
    before: str
    after: str
    """What stands around the token, unless a chat template writes it."""
    tokenizer: PreTrainedTokenizerBase
    chat_template: Any
    layout: Callable[[str], str]
    """Puts a whole text with its token into the order of the family."""

    @property
    def written(self) -> str:
        """The token with what stands around it."""
        return self.before + self.token + self.after


def with_image(prompt: Prompt, marks: ImageMarks, *, has_text: bool) -> Prompt:
    """The prompt around an image, and around the text that comes with it if there is one.

    `marks.token` stands once in its prefix or suffix. BOS comes first unless the family or the template places it.
    """
    prefix, suffix = _around(prompt, marks, has_text=has_text)
    whole = marks.layout(prefix + TEXT_MARK + suffix)
    if whole.count(TEXT_MARK) != 1 or whole.count(marks.token) != 1:
        raise UserError(
            f"prompt {prompt.name!r}: around an image it would have {marks.token!r} {whole.count(marks.token)} times "
            "instead of once; write your own template with {image} and {text}"
        )
    prefix, suffix = whole.split(TEXT_MARK)
    bos = marks.tokenizer.bos_token
    adds_bos = prompt.adds_bos and not (bos is not None and bos in prefix + suffix)
    return replace(prompt, prefix=prefix, suffix=suffix, adds_bos=adds_bos, with_image=None)


def _around(prompt: Prompt, marks: ImageMarks, *, has_text: bool) -> tuple[str, str]:
    if prompt.name in CHAT_NAMES:
        return _chat(prompt, marks, has_text=has_text)
    if prompt.with_image is not None:
        prefix, suffix = (part.replace(IMAGE, marks.written) for part in prompt.with_image)
        return prefix, suffix
    prefix, suffix = prompt.prefix, prompt.suffix
    if prompt.is_published and not has_text:
        prefix, suffix = _called_image(prefix), _called_image(suffix)
    return prefix + marks.written, suffix


def _called_image(words: str) -> str:
    for text, image in _WORDS:
        words = words.replace(text, image)
    return words


def _chat(prompt: Prompt, marks: ImageMarks, *, has_text: bool) -> tuple[str, str]:
    """What the chat template writes before and after the text of a turn that begins with an image."""
    content: list[dict[str, str]] = [{"type": "image"}]
    if has_text:
        content.append({"type": "text", "text": TEXT_MARK})
    written = rendered(marks.tokenizer, prompt.name, content, marks.chat_template)
    if has_text:
        parts = written.split(TEXT_MARK)
    else:  # an empty text stands behind the image
        end = re.search(re.escape(marks.written), written) or re.search(re.escape(marks.token), written)
        parts = [] if end is None else [written[: end.end()], written[end.end() :]]
    if len(parts) != 2 or written.count(marks.token) != 1:
        raise UserError(
            f"prompt {prompt.name!r}: the chat template of {marks.tokenizer.name_or_path} does not write a turn with "
            f"an image as one {marks.token!r}; write your own template with {IMAGE} and {SLOT}"
        )
    return parts[0], parts[1]
