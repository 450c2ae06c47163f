"""Tokens whose ids are beyond the embeddings: a tokenizer got new tokens, and the embeddings were not made longer.

Their lookup would end in an IndexError, on CUDA in a failed assertion of a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from dec2vec.errors import UserError

SHOWN = 40


def tokens_without_row(tokenizer: PreTrainedTokenizerBase, embeddings: Any) -> dict[int, str]:
    """The tokens, by id, for which the input embeddings have no row; empty for nearly all models."""
    rows = int(embeddings.weight.shape[0])
    return {id: token for token, id in tokenizer.get_vocab().items() if id >= rows}


def check_rows(name: str, ids: Sequence[Sequence[int]], texts: Sequence[str], without_row: Mapping[int, str]) -> None:
    """Raise UserError for the first text of the model `name` that has a token without a row."""
    for row, text in zip(ids, texts, strict=True):
        for id in row:
            if id in without_row:
                shown = text if len(text) <= SHOWN else text[: SHOWN - 1] + "\u2026"
                raise UserError(
                    f"model {name}: token {without_row[id]!r} (id {id}) of the text {shown!r} has no row in the "
                    "embeddings; remove it from the text, or resize_token_embeddings of the model and save it"
                )
