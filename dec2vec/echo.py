"""Texts -> ids with two copies of the text, of which the second is pooled (Echo, Springer et al. 2024).

The pieces are tokenised one by one, as the authors' code does, whatever `tokenization` says. So the copies have equal
ids, a text that is too long loses the same tokens in both, and a row's length alone tells where the second begins.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dec2vec.errors import UserError
from dec2vec.prompts import Prompt
from dec2vec.tokenization import clean_surrogates, eos_id, leading_specials, plain_ids


class EchoTokenizer:
    """BOS where the tokenizer adds one, prefix, text, `repeat`, text, EOS."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, max_length: int) -> None:
        prefix, self._between = plain_ids(tokenizer, [prompt.prefix, prompt.repeat or ""])
        self._tokenizer = tokenizer
        self._before = leading_specials(tokenizer) + prefix
        self._after = [eos_id(tokenizer)]
        fixed = len(self._before) + len(self._between) + len(self._after)
        self._room = (max_length - fixed) // 2
        if self._room < 1:
            raise UserError(
                f"max_length {max_length}: the prompt {prompt.name!r} alone takes {fixed} tokens, and the text stands "
                f"in it twice; set --model.max_length to {fixed + 2} or more"
            )

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text within its prompt, at most `max_length` long; both copies are cut alike."""
        copies = [ids[: self._room] for ids in plain_ids(self._tokenizer, [clean_surrogates(text) for text in texts])]
        return [self._before + copy + self._between + copy + self._after for copy in copies]

    def starts(self, lengths: Int[Tensor, batch]) -> Int[Tensor, batch]:
        """Where the second copy begins in rows of these lengths; at the EOS if the text is empty."""
        copy = (lengths - len(self._before) - len(self._between) - len(self._after)) // 2
        return lengths - len(self._after) - copy
