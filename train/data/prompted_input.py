"""A text with the prompt and the side in which it is embedded, and its token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dec2vec.encoder import Encoder
from dec2vec.prompts.prompt import Side
from train.data.dataset import TrainingData
from train.options.data import Kind, SourceConfig

if TYPE_CHECKING:
    from train.data.token_cache import TokenCache

BLOCK = 10_000
"""Rows whose token ids are in memory together."""


@dataclass(frozen=True)
class PromptedInput:
    """A text to embed. Equal texts of the same `copy` are embedded once; those of different copies separately."""

    text: str
    prompt: str | None
    side: Side = "query"
    copy: int = 0


def prompted_input(source: SourceConfig, text: str, place: int) -> PromptedInput:
    """Text number `place` of a row, with its prompt and side."""
    side = side_of(source.kind, place)
    return PromptedInput(text, source.document_prompt if side == "document" else source.query_prompt, side)


def side_of(kind: Kind, place: int) -> Side:
    """The side of text number `place` of a row. Only pairs have sides: all texts but the anchor are documents."""
    if kind != "pairs":
        return "text"
    return "document" if place else "query"


def tokenized(readings: Sequence[PromptedInput], encoder: Encoder, known: TokenCache | None = None) -> list[list[int]]:
    """Token ids of each text in its prompt. Texts of one prompt and side are tokenized together, which is faster."""
    found = None if known is None else known.of(readings)
    if found is not None:
        return found
    ids: list[list[int]] = [[]] * len(readings)
    for prompt, side in dict.fromkeys((reading.prompt, reading.side) for reading in readings):
        mine = [row for row, reading in enumerate(readings) if (reading.prompt, reading.side) == (prompt, side)]
        made = encoder.tokenize([readings[row].text for row in mine], prompt=prompt, side=side)
        for row, sequence in zip(mine, made, strict=True):
            ids[row] = sequence
    return ids


def check_token_rows(data: TrainingData, encoder: Encoder) -> None:
    """Raise UserError for a text with a token that the decoder has no embedding for.

    Costs nothing for a tokenizer whose tokens all have one, as is usual. Streamed texts are refused in their step.
    """
    if not encoder.tokens_without_row:
        return
    for source, table in zip(data.sources, data.tables, strict=True):
        if source.streaming:
            continue
        for start in range(0, len(table.texts), BLOCK):
            rows = table.texts[start : start + BLOCK]
            tokenized([prompted_input(source, text, place) for row in rows for place, text in enumerate(row)], encoder)


def text_keys(texts: Sequence[str]) -> Tensor:
    """63-bit hashes that are equal for equal texts in every process (Python's own hash differs between them)."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8) for text in texts)
    return torch.tensor([int.from_bytes(digest.digest(), "big") >> 1 for digest in digests], dtype=torch.long)
