"""Prompts, which are written around a text before it is embedded. The published ones are in `templates`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from dec2vec.errors import UserError
from dec2vec.prompts.templates import PUBLISHED as TEMPLATES

Side = Literal["text", "query", "document"]
"""Prompts may differ between queries and documents. `text` is neither: texts that are all alike."""
TextNormalization = Literal["none", "sts", "lower"]
SLOT = "{text}"
TASK = "{task}"
IMAGE = "{image}"


@dataclass(frozen=True)
class Prompt:
    """What is written around a text. With `append_eos` an EOS is added and pooled, else the suffix's last token is.

    A published embedder ends its texts as its tokenizer does instead of in EOS.
    """

    name: str
    prefix: str = ""
    suffix: str = ""
    append_eos: bool = True
    default_layer: int = -1
    """The layer of the publication. A fair comparison still selects the layer on dev data."""
    repeat: str | None = None
    """The string between two copies of the text, of which the second is pooled; None if there is one copy."""
    adds_bos: bool = True
    """Whether the BOS that the tokenizer adds comes before the prompt. A chat template writes its own BOS."""
    pooled_from: int = field(default=0, repr=False)
    """The first token that is pooled: a published embedder may leave its prompt out."""
    strips: bool = field(default=False, repr=False)
    """White space around a text is removed, as some chat templates do."""
    with_image: tuple[str, str] | None = field(default=None, repr=False)
    """Prefix and suffix of a template with the slot `{image}`, which is left out of those for texts."""
    is_published: bool = field(default=False, repr=False)
    """Whether it is a published template, whose words are about a sentence."""


def template_prompt(name: str, template: str, default_layer: int) -> Prompt:
    """A published template, which is pooled at its last token."""
    prefix, suffix = template.split(SLOT)
    return Prompt(name, prefix, suffix, append_eos=False, default_layer=default_layer, is_published=True)


_TEMPLATES = {name: template_prompt(name, *published) for name, published in TEMPLATES.items()}
PROMPT_NAMES = ("bare", *_TEMPLATES, "instruct")
"""Prompts with one copy of the text in one template. Training and export need such a prompt."""
ENSEMBLE_NAMES = ("metaeol", "ck")
CHAT_NAMES = ("chat", "chat_no_generation")
PUBLISHED = "published"
"""The prompts of a published embedder, which are in its files (`dec2vec.decoder.published`)."""
ENCODER_NAMES = (*ENSEMBLE_NAMES, "echo", *CHAT_NAMES)
"""Prompts for encoding and evaluation only; see `ensembles` and `chat`."""
_ENCODER_SPEC = re.compile(rf"({'|'.join(ENCODER_NAMES)})(:[\d,]*)?(\+unit)?")


def get_prompt(spec: str, task: str, side: Side = "text") -> Prompt:
    """The prompt called `spec`, or `spec` itself if it is a template with one `{text}`.

    `instruct` puts `Instruct: {task}\\nQuery: ` before queries and nothing before documents, as e5-mistral does. A
    template may have the slot `{task}` too, and `{image}` where an image goes that comes with the text.
    A template that ends in `{text}` gets an EOS, which is pooled; one with text after the slot is pooled at its end.
    UserError for unknown names, templates without exactly one slot, and prompts for encoders only (`ENCODER_NAMES`).
    """
    if spec == "bare" or (spec == "instruct" and side == "document"):
        return Prompt(spec)
    if spec == "instruct":
        return Prompt("instruct", prefix=f"Instruct: {task}\nQuery: ")
    if spec in _TEMPLATES:
        return _TEMPLATES[spec]
    return _own_template(spec, task)


def takes_task(spec: str, side: Side) -> bool:
    """Whether the words of a prompt depend on the task."""
    return (spec == "instruct" and side != "document") or (SLOT in spec and TASK in spec)


def echo_prompt(task: str, side: Side = "text") -> Prompt:
    """Echo (Springer et al. 2024): the tokens of the second copy, and the EOS after it, have seen the complete text.

    `last` pools the EOS; mean, weighted mean and max pool the second copy and the EOS.
    """
    if side == "document":
        return Prompt("echo", prefix="Document:", repeat="\nDocument again:")
    return Prompt("echo", prefix=f"Instruct:{task},\nQuery:", repeat="\nQuery again:")


def _own_template(spec: str, task: str) -> Prompt:
    slots = spec.count(SLOT)
    if slots == 1:
        return _around_text(spec, task)
    if slots > 1:
        raise UserError(f"prompt {spec!r}: it contains {SLOT} {slots} times; a template must contain it exactly once")
    if _ENCODER_SPEC.fullmatch(spec):
        raise UserError(
            f"prompt {spec!r} is only for encoding and evaluation; training and export need a single prompt, such as "
            "prompteol"
        )
    names = (*PROMPT_NAMES, *ENCODER_NAMES)
    close = difflib.get_close_matches(spec, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(names)} or a template with {SLOT}"
    raise UserError(f"prompt {spec!r}: unknown; {hint}")


def _around_text(spec: str, task: str) -> Prompt:
    """A template with one `{text}`, and perhaps an `{image}`. UserError for more than one of these."""
    before, after = (part.replace(TASK, task) for part in spec.split(SLOT))
    images = spec.count(IMAGE)
    if images > 1:
        raise UserError(f"prompt {spec!r}: it contains {IMAGE} {images} times; an input has one image")
    prefix, suffix = before.replace(IMAGE, ""), after.replace(IMAGE, "")
    return Prompt(spec, prefix, suffix, append_eos=not suffix, with_image=(before, after) if images else None)


def normalize_sentence(text: str) -> str:
    """Prepare a sentence as in the STS protocol (PromptEOL's evaluation code): final period, single quotes, no `?`.

    The publications do so in evaluation only. dec2vec does so in training too, so that both see the same strings.
    """
    if text and text[-1] not in ".?\"'":
        text += "."
    text = text.replace('"', "'")
    if text.endswith("?"):
        text = text[:-1] + "."
    return text.strip()


def lower_case(text: str) -> str:
    """Lower case character by character, like the `tokenizers` library (a final sigma gets no form of its own)."""
    return text.lower() if text.isascii() else "".join(map(str.lower, text))


NORMALIZERS: dict[TextNormalization, Callable[[str], str]] = {
    "none": str,
    "sts": normalize_sentence,
    "lower": lower_case,
}
"""Functions that normalize a text before the prompt is written around it."""
