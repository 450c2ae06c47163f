"""The prompt before a text: what sentence-transformers writes is what the model was trained with, once."""

from __future__ import annotations

from typing import Any

from dec2vec.checks.finding import Finding, worst
from dec2vec.checks.library_tokens import ends_with, expected_tail, library_ids
from dec2vec.checks.loaded_model import PROBES, Subject
from dec2vec.prompts.prompt import SLOT, Side
from dec2vec.prompts.tokenizer import leading_specials

NAME = "prompts"
_FILE = "config_sentence_transformers.json"
SIDES: tuple[Side, Side] = ("query", "document")


def check_prompts(subject: Subject) -> Finding:
    """Strings, then the token ids that come of them."""
    if subject.library is None:
        assert subject.encoder is not None
        return Finding(NAME, "pass", f"dec2vec writes {subject.encoder.config.prompt!r} by itself")
    found = [_doubled_start(subject)]
    if subject.is_marked and subject.prompt("query") is not None:
        found += [_written(subject, side) for side in SIDES]
        found += [_default(subject)]
        found += [_round_trip(subject, side) for side in SIDES]
    else:
        found += [_foreign(name, text) for name, text in subject.library.prompts.items() if text]
    shown = {name: text for name, text in subject.library.prompts.items() if text}
    return worst(NAME, found, f"sentence-transformers writes {shown or 'none'}, as the model wants")


def _written(subject: Subject, side: Side) -> Finding:
    prompt = subject.prompt(side)
    assert prompt is not None
    wanted, found = prompt.prefix, subject.library.prompts.get(side) or ""
    if found == wanted:
        return Finding(NAME, "pass", "")
    how = "is missing" if not found else "is written twice" if wanted and found == wanted * 2 else "differs"
    what = f"the {side} prompt {how}: {found!r} in {_FILE}, trained with {wanted!r}"
    return Finding(NAME, "fail", what, f"set prompts.{side} in {_FILE} to {wanted!r}, or export again")


def _default(subject: Subject) -> Finding:
    """`encode` without a name has to write what queries get, or nothing where they get nothing."""
    prompt = subject.prompt("query")
    assert prompt is not None
    name = subject.library.default_prompt_name
    if prompt.prefix and name is None:
        what = "plain `encode` writes no prompt: default_prompt_name is empty"
        return Finding(NAME, "fail", what, f"set default_prompt_name to query in {_FILE}, or export again")
    return Finding(NAME, "pass", "")


def _round_trip(subject: Subject, side: Side) -> Finding:
    """The ids before the ending, which has its own check."""
    assert subject.encoder is not None
    tail = expected_tail(subject, side)
    prompt = subject.prompt(side)
    if not tail or prompt is None or (subject.library.prompts.get(side) or "") != prompt.prefix:
        return Finding(NAME, "pass", "")  # the string was blamed already
    for text, ours in zip(PROBES, subject.encoder.tokenize(PROBES, side=side), strict=True):
        theirs = _without(library_ids(subject, text, side), tail)
        if len(ours) < subject.encoder.config.max_length and theirs != _without(ours, tail):
            what = f"{side} {text[:30]!r} is read as other token ids than dec2vec's"
            return Finding(NAME, "fail", what, "export again: tokenizer.json was changed or belongs to another model")
    return Finding(NAME, "pass", "")


def _without(ids: list[int], tail: list[int]) -> list[int]:
    while ends_with(ids, tail):
        ids = ids[: -len(tail)]
    return ids


def _doubled_start(subject: Subject) -> Finding:
    """A BOS that both the tokenizer and the prompt's text write."""
    tokenizer: Any = subject.library.tokenizer
    head = leading_specials(tokenizer)
    if head and library_ids(subject, PROBES[0])[: 2 * len(head)] == head * 2:
        what = f"texts begin with {tokenizer.decode(head)!r} twice"
        return Finding(NAME, "fail", what, "remove it from the prompt: the tokenizer writes it by itself")
    return Finding(NAME, "pass", "")


def _foreign(name: str, text: str) -> Finding:
    half = text[: len(text) // 2]
    if SLOT in text:
        what = f"prompt {name!r} holds {SLOT}, which sentence-transformers writes as it is"
        return Finding(NAME, "fail", what, f"cut it off in {_FILE}: prompts stand before the text")
    if len(text) > 8 and half * 2 == text:
        return Finding(NAME, "fail", f"prompt {name!r} is written twice: {text!r}", f"write it once in {_FILE}")
    return Finding(NAME, "pass", "")
