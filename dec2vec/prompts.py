"""What is written around a text before it is embedded: frozen values, no I/O.

Spellings are those of the methods' own code (straight quotes, the spaces around `:` and `,` included):
PromptEOL (Jiang et al. 2023), Pretended CoT and Knowledge Enhancement (Zhang et al. 2024), e5's `Instruct:` (Wang et
al. 2023).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dec2vec.errors import UserError

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


def _eol(name: str, template: str, default_layer: int) -> Prompt:
    prefix, suffix = template.split(SLOT)
    return Prompt(name, prefix, suffix, append_eos=False, default_layer=default_layer)


_KNOWLEDGE = (
    "The essence of a sentence is often captured by its main subjects and actions, while descriptive terms provide "
    "additional but less central details. With this in mind , "
)
_TEMPLATES = {
    "prompteol": _eol("prompteol", 'This sentence : "{text}" means in one word:"', -1),
    "pretended_cot": _eol(
        "pretended_cot", 'After thinking step by step , this sentence : "{text}" means in one word:"', -2
    ),
    "knowledge_enhancement": _eol(
        "knowledge_enhancement", _KNOWLEDGE + 'this sentence : "{text}" means in one word:"', -2
    ),
}
PROMPT_NAMES = ("bare", *_TEMPLATES, "instruct")


def get_prompt(spec: str, task: str, side: Side = "query") -> Prompt:
    """The prompt called `spec`, or `spec` itself when it is a template with one `{text}`.

    `instruct` puts `Instruct: {task}\\nQuery: ` before queries and nothing before documents, as e5-mistral does.
    A template that ends in `{text}` gets an EOS to pool; one with text behind the slot is pooled at its own end.
    """
    if spec == "bare" or (spec == "instruct" and side == "document"):
        return Prompt(spec)
    if spec == "instruct":
        return Prompt("instruct", prefix=f"Instruct: {task}\nQuery: ")
    if spec in _TEMPLATES:
        return _TEMPLATES[spec]
    return _own_template(spec)


def _own_template(spec: str) -> Prompt:
    slots = spec.count(SLOT)
    if slots == 1:
        prefix, suffix = spec.split(SLOT)
        return Prompt(spec, prefix, suffix, append_eos=not suffix)
    if slots > 1:
        raise UserError(f"prompt {spec!r}: {slots} slots {SLOT}; a template has exactly one")
    close = difflib.get_close_matches(spec, PROMPT_NAMES, n=1)
    hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(PROMPT_NAMES)} or a template with {SLOT}"
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
