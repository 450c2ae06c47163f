"""Check that sentence-transformers writes the prompt that the model was trained with, and writes it once."""

from __future__ import annotations

from typing import Any

from dec2vec.checks.finding import Finding, worst
from dec2vec.checks.library_tokens import ends_with, expected_tail, library_ids
from dec2vec.checks.loaded_model import PROBES, LoadedModel
from dec2vec.prompts.prompt import SLOT, Side
from dec2vec.prompts.tokenizer import leading_specials

NAME = "prompts"
_FILE = "config_sentence_transformers.json"
SIDES: tuple[Side, Side] = ("query", "document")


def check_prompts(model: LoadedModel) -> Finding:
    """Check the prompts as strings, then the token ids of texts with them."""
    if model.library is None:
        assert model.encoder is not None
        return Finding(NAME, "pass", f"dec2vec adds {model.encoder.config.prompt_name!r} automatically")
    findings = [_doubled_start(model)]
    if model.is_marked and model.prompt("query") is not None:
        findings += [_written(model, side) for side in SIDES]
        findings += [_default(model)]
        findings += [_round_trip(model, side) for side in SIDES]
    else:
        findings += [_foreign(name, text) for name, text in model.library.prompts.items() if text]
    shown = {name: text for name, text in model.library.prompts.items() if text}
    return worst(NAME, findings, f"sentence-transformers writes {shown or 'none'}, as the model wants")


def _written(model: LoadedModel, side: Side) -> Finding:
    prompt = model.prompt(side)
    assert prompt is not None
    trained, written = prompt.prefix, model.library.prompts.get(side) or ""
    if written == trained:
        return Finding(NAME, "pass", "")
    how = "is missing" if not written else "is written twice" if trained and written == trained * 2 else "differs"
    what = f"the {side} prompt {how}: it is {written!r} in {_FILE}, but the model was trained with {trained!r}"
    return Finding(NAME, "fail", what, f"set prompts.{side} in {_FILE} to {trained!r}, or export again")


def _default(model: LoadedModel) -> Finding:
    """Check that `encode` without a prompt name adds the prompt of texts, if they have one."""
    prompt = model.prompt("text")
    assert prompt is not None
    name = model.library.default_prompt_name
    if prompt.prefix and name is None:
        what = "`encode` adds no prompt, because default_prompt_name is empty"
        return Finding(NAME, "fail", what, f"set default_prompt_name to query in {_FILE}, or export again")
    return Finding(NAME, "pass", "")


def _round_trip(model: LoadedModel, side: Side) -> Finding:
    """Compare the ids without their ending, which has its own check."""
    assert model.encoder is not None
    tail = expected_tail(model, side)
    prompt = model.prompt(side)
    if not tail or prompt is None or (model.library.prompts.get(side) or "") != prompt.prefix:
        return Finding(NAME, "pass", "")  # the check of the strings has failed already
    for text, ours in zip(PROBES, model.encoder.tokenize(PROBES, side=side), strict=True):
        theirs = _without(library_ids(model, text, side), tail)
        if len(ours) < model.encoder.max_length and theirs != _without(ours, tail):
            what = f"{side} {text[:30]!r} gets different token ids than in dec2vec"
            return Finding(
                NAME, "fail", what, "export again, because tokenizer.json was changed or belongs to another model"
            )
    return Finding(NAME, "pass", "")


def _without(ids: list[int], tail: list[int]) -> list[int]:
    while ends_with(ids, tail):
        ids = ids[: -len(tail)]
    return ids


def _doubled_start(model: LoadedModel) -> Finding:
    """Check that the prompt does not repeat the BOS that the tokenizer writes."""
    tokenizer: Any = model.library.tokenizer
    head = leading_specials(tokenizer)
    if head and library_ids(model, PROBES[0])[: 2 * len(head)] == head * 2:
        what = f"texts begin with {tokenizer.decode(head)!r} twice"
        return Finding(NAME, "fail", what, "remove it from the prompt, because the tokenizer adds it")
    return Finding(NAME, "pass", "")


def _foreign(name: str, text: str) -> Finding:
    half = text[: len(text) // 2]
    if SLOT in text:
        what = f"prompt {name!r} contains {SLOT}, which sentence-transformers does not replace"
        return Finding(NAME, "fail", what, f"remove it in {_FILE}, because prompts are placed before the text")
    if len(text) > 8 and half * 2 == text:
        return Finding(NAME, "fail", f"prompt {name!r} is written twice: {text!r}", f"write it once in {_FILE}")
    return Finding(NAME, "pass", "")
