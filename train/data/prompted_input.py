"""A text with the prompt and the side in which it is embedded, and its token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dec2vec.encoder import Encoder
from dec2vec.prompts.prompt import Side
from train.data.dataset import TrainingData
from train.data.table import SourceTable
from train.options.data import Kind, SourceConfig

if TYPE_CHECKING:
    from train.data.token_cache import TokenCache

BLOCK = 20_000
"""Texts whose token ids are in memory together."""
NO_INSTRUCTIONS = ("", "")


@dataclass(frozen=True)
class PromptedInput:
    """A text to embed. Equal texts of the same `copy` are embedded once; those of different copies separately."""

    text: str
    prompt: str | None
    side: Side = "query"
    copy: int = 0
    task: str | None = None
    """The row's own instruction, in place of the model's task."""


def prompted_input(
    source: SourceConfig, text: str, place: int, instructions: tuple[str, str] = NO_INSTRUCTIONS
) -> PromptedInput:
    """Text number `place` of a row with these instructions, with its prompt and side."""
    side = side_of(source.kind, place)
    prompt, task = (source.query_prompt, instructions[0])
    if side == "document":
        prompt, task = source.document_prompt, instructions[1]
    return PromptedInput(text, prompt, side, task=task or None)


def inputs_of(source: SourceConfig, table: SourceTable) -> Iterator[PromptedInput]:
    """All texts of a source, row by row."""
    instructions = table.instructions or repeat(NO_INSTRUCTIONS)
    for row, own in zip(table.texts, instructions, strict=False):
        for place, text in enumerate(row):
            yield prompted_input(source, text, place, own)


def reading_keys(inputs: Sequence[PromptedInput]) -> Tensor:
    """Keys that are equal for inputs with equal token ids, as both copies of a text have."""
    tasks = ("" if item.task is None else f"{item.task!r} " for item in inputs)
    return text_keys(
        [f"{task}{item.prompt!r} {item.side} {item.text}" for task, item in zip(tasks, inputs, strict=True)]
    )


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
    alike: dict[tuple[str | None, Side, str | None], list[int]] = {}
    for row, reading in enumerate(readings):
        alike.setdefault((reading.prompt, reading.side, reading.task), []).append(row)
    for (prompt, side, task), mine in alike.items():
        made = encoder.tokenize([readings[row].text for row in mine], prompt=prompt, side=side, task=task)
        for row, sequence in zip(mine, made, strict=True):
            ids[row] = sequence
    return ids


def check_token_rows(data: TrainingData, encoder: Encoder) -> None:
    """Raise UserError for a text with a token that the decoder has no embedding for.

    Costs nothing for a tokenizer whose tokens all have one, as is usual.
    """
    if not encoder.tokens_without_row:
        return
    for source, table in zip(data.sources, data.tables, strict=True):
        inputs = inputs_of(source, table)
        while block := list(islice(inputs, BLOCK)):
            tokenized(block, encoder)


def text_keys(texts: Sequence[str]) -> Tensor:
    """63-bit hashes that are equal for equal texts in every process (Python's own hash differs between them)."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8) for text in texts)
    return torch.tensor([int.from_bytes(digest.digest(), "big") >> 1 for digest in digests], dtype=torch.long)
