"""Token ids of a text as each route makes them."""

from __future__ import annotations

from typing import Any

from dec2vec.checks.loaded_model import Subject
from dec2vec.prompts.prompt import Side


def library_prompt(subject: Subject, side: Side = "query") -> str:
    """What sentence-transformers writes before a text of this side; for other models, its default prompt."""
    prompts: dict[str, str] = subject.library.prompts
    name = side if subject.is_marked else (subject.library.default_prompt_name or "")
    return prompts.get(name) or ""


def library_ids(subject: Subject, text: str, side: Side = "query") -> list[int]:
    """Prompt and text, never cut."""
    tokenizer: Any = subject.library.tokenizer
    ids: list[int] = tokenizer(library_prompt(subject, side) + text, truncation=False, verbose=False)["input_ids"]
    return ids


def cut_ids(subject: Subject, text: str) -> list[int]:
    """What goes into the decoder of sentence-transformers, cut as it cuts, without padding."""
    prompt = library_prompt(subject) or None
    features = subject.library.preprocess([text], prompt=prompt)
    real = features["attention_mask"][0].bool()
    ids: list[int] = features["input_ids"][0][real].tolist()
    return ids


def expected_tail(subject: Subject, side: Side = "query") -> list[int]:
    """Ids that our encoder ends every text with: EOS, or the suffix. Empty where nothing is known."""
    prompt = subject.prompt(side)
    if prompt is None or subject.encoder is None:
        return []
    tokenizer: Any = subject.encoder.tokenizer
    if prompt.append_eos:
        return [int(tokenizer.eos_token_id)]
    if subject.encoder.config.tokenization == "joint":
        return []
    tail: list[int] = tokenizer(prompt.suffix, add_special_tokens=False)["input_ids"]
    return tail


def ends_with(ids: list[int], tail: list[int]) -> bool:
    """Whether a tail, which must not be empty, stands at the end."""
    return bool(tail) and ids[-len(tail) :] == tail
