"""The token ids that sentence-transformers makes of a text, and how dec2vec would end them."""

from __future__ import annotations

from typing import Any

from dec2vec.checks.loaded_model import LoadedModel
from dec2vec.prompts.prompt import Side


def library_prompt(model: LoadedModel, side: Side = "query") -> str:
    """The prompt that sentence-transformers puts before a text of this side; its default prompt for other models."""
    prompts: dict[str, str] = model.library.prompts
    name = side if model.is_marked else (model.library.default_prompt_name or "")
    return prompts.get(name) or ""


def library_ids(model: LoadedModel, text: str, side: Side = "query") -> list[int]:
    """The ids of prompt and text without truncation."""
    tokenizer: Any = model.library.tokenizer
    ids: list[int] = tokenizer(library_prompt(model, side) + text, truncation=False, verbose=False)["input_ids"]
    return ids


def cut_ids(model: LoadedModel, text: str) -> list[int]:
    """The ids that sentence-transformers feeds to the decoder, truncated as it does but without padding."""
    prompt = library_prompt(model) or None
    features = model.library.preprocess([text], prompt=prompt)
    real = features["attention_mask"][0].bool()
    ids: list[int] = features["input_ids"][0][real].tolist()
    return ids


def expected_tail(model: LoadedModel, side: Side = "query") -> list[int]:
    """The ids that dec2vec ends every text with: EOS, or the suffix of the prompt. Empty if they are not known."""
    prompt = model.prompt(side)
    if prompt is None or model.encoder is None:
        return []
    tokenizer: Any = model.encoder.tokenizer
    if prompt.append_eos:
        return model.encoder.ending
    if model.encoder.config.tokenization == "joint":
        return []
    tail: list[int] = tokenizer(prompt.suffix, add_special_tokens=False)["input_ids"]
    return tail


def ends_with(ids: list[int], tail: list[int]) -> bool:
    """Whether `ids` end in `tail`, which must not be empty."""
    return bool(tail) and ids[-len(tail) :] == tail
