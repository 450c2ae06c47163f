"""Which texts a model of sentence-transformers cuts: the library does it without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from dec2vec.prompts.tokenizer import clean_surrogates


def library_limit(model: Any) -> int | None:
    """The most tokens that the model reads of a text; None for models that read texts of any length."""
    limit = getattr(model, "max_seq_length", None)
    return None if limit is None else int(limit)


def cut_by_library(model: Any, texts: Sequence[str], prompt: str | None) -> list[bool]:
    """Whether each text is longer than that, with the model's own prompt of this name and its special tokens."""
    limit, tokenizer = library_limit(model), getattr(model, "tokenizer", None)
    flags = [False] * len(texts)
    if limit is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return flags
    before = "" if prompt is None else model.prompts.get(prompt) or ""
    whole = [clean_surrogates(before + text) for text in texts]
    room = limit - tokenizer.num_special_tokens_to_add()
    long = [row for row, text in enumerate(whole) if 2 * len(text.encode()) > room]
    if long:
        ids = tokenizer([whole[row] for row in long], truncation=False, verbose=False)["input_ids"]
        for row, of_text in zip(long, ids, strict=True):
            flags[row] = len(of_text) > limit
    return flags
