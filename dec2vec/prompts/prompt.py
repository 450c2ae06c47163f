"""What is written around a text before it is embedded: frozen values, no I/O. The published texts: `templates`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dec2vec.errors import UserError
from dec2vec.prompts.templates import PUBLISHED

Side = Literal["query", "document"]
TextNormalization = Literal["none", "sts", "lower"]
SLOT = "{text}"


@dataclass(frozen=True)
class Prompt:
    """Text around a text. `append_eos`: the pooled token is an EOS of ours, else the suffix's own last token."""

    name: str
    prefix: str = ""
    suffix: str = ""
    append_eos: bool = True
    default_layer: int = -1
    """Layer of the publication; a fair comparison still sweeps layers on dev."""
    repeat: str | None = None
    """What stands between two copies of the text, of which the second is pooled; None: one copy."""
    adds_bos: bool = True
    """Where the tokenizer puts a BOS before a text, it does so before the prompt; a chat template writes its own."""


def template_prompt(name: str, template: str, default_layer: int) -> Prompt:
    """A published template, pooled at its own last token."""
    prefix, suffix = template.split(SLOT)
    return Prompt(name, prefix, suffix, append_eos=False, default_layer=default_layer)


_TEMPLATES = {name: template_prompt(name, *published) for name, published in PUBLISHED.items()}
PROMPT_NAMES = ("bare", *_TEMPLATES, "instruct")
"""Prompts of one text in one template: a decoder can be trained and exported with them."""
ENSEMBLE_NAMES = ("metaeol", "ck")
CHAT_NAMES = ("chat", "chat_no_generation")
ENCODER_NAMES = (*ENSEMBLE_NAMES, "echo", *CHAT_NAMES)
"""Readings that only an encoder can do; see `ensembles` and `chat`."""
_ENCODER_SPEC = re.compile(rf"({'|'.join(ENCODER_NAMES)})(:[\d,]*)?(\+unit)?")


def get_prompt(spec: str, task: str, side: Side = "query") -> Prompt:
    """The prompt called `spec`, or `spec` itself when it is a template with one `{text}`.

    `instruct` puts `Instruct: {task}\\nQuery: ` before queries and nothing before documents, as e5-mistral does.
    A template that ends in `{text}` gets an EOS to pool; one with text behind the slot is pooled at its own end.
    UserError for an unknown name, a template without exactly one slot, and what is no single prompt (`ENCODER_NAMES`).
    """
    if spec == "bare" or (spec == "instruct" and side == "document"):
        return Prompt(spec)
    if spec == "instruct":
        return Prompt("instruct", prefix=f"Instruct: {task}\nQuery: ")
    if spec in _TEMPLATES:
        return _TEMPLATES[spec]
    return _own_template(spec)


def echo_prompt(task: str, side: Side = "query") -> Prompt:
    """Echo (Springer et al. 2024): the tokens of the second copy, and the EOS behind it, have read the whole text.

    `last` reads the EOS; mean, weighted mean and max go over the second copy and the EOS.
    """
    if side == "document":
        return Prompt("echo", prefix="Document:", repeat="\nDocument again:")
    return Prompt("echo", prefix=f"Instruct:{task},\nQuery:", repeat="\nQuery again:")


def _own_template(spec: str) -> Prompt:
    slots = spec.count(SLOT)
    if slots == 1:
        prefix, suffix = spec.split(SLOT)
        return Prompt(spec, prefix, suffix, append_eos=not suffix)
    if slots > 1:
        raise UserError(f"prompt {spec!r}: {slots} slots {SLOT}; a template has exactly one")
    if _ENCODER_SPEC.fullmatch(spec):
        raise UserError(
            f"prompt {spec!r}: for encoding and evaluation only; training and export want one prompt, such as prompteol"
        )
    names = (*PROMPT_NAMES, *ENCODER_NAMES)
    close = difflib.get_close_matches(spec, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(names)} or a template with {SLOT}"
    raise UserError(f"prompt {spec!r}: unknown; {hint}")


def normalize_sentence(text: str) -> str:
    """The STS protocol's preparation (PromptEOL's evaluation code): final period, single quotes, no final `?`.

    The publications do it in evaluation only; we do it in training too, so that both see the same strings.
    """
    if text and text[-1] not in ".?\"'":
        text += "."
    text = text.replace('"', "'")
    if text.endswith("?"):
        text = text[:-1] + "."
    return text.strip()


def lower_case(text: str) -> str:
    """Lower case sign by sign, as the `tokenizers` library does it (the word's last sigma has no form of its own)."""
    return text.lower() if text.isascii() else "".join(map(str.lower, text))


NORMALIZERS: dict[TextNormalization, Callable[[str], str]] = {
    "none": str,
    "sts": normalize_sentence,
    "lower": lower_case,
}
"""What is done to a text before the prompt is written around it."""
