"""Texts with a token that the decoder has no embedding for are refused before the first step."""

from __future__ import annotations

from collections.abc import Sequence

from dec2vec.encoder import Encoder
from train.data.dataset import TrainingData
from train.data.report import prompts_of

BLOCK = 10_000
"""Rows whose ids are in memory together."""


def check_token_rows(data: TrainingData, encoder: Encoder) -> None:
    """Raise UserError for such a text. Costs nothing for a tokenizer whose tokens all have a row, as is usual."""
    if not encoder.tokens_without_row:
        return
    for source, table in zip(data.sources, data.tables, strict=True):
        first, others = prompts_of(source)
        for start in range(0, len(table.texts), BLOCK):
            rows: Sequence[Sequence[str]] = table.texts[start : start + BLOCK]
            for texts, (prompt, side) in (
                ([row[0] for row in rows], first),
                ([text for row in rows for text in row[1:]], others),
            ):
                encoder.tokenize(texts, prompt=prompt, side=side)
