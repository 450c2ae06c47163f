"""Rows `{query, pos, neg}`: FlagEmbedding, E5 and BGE-ICL with an instruction a row, and MEDI.

    {"query": "...", "pos": ["...", "..."], "neg": ["..."], "prompt": "...", "pos_scores": [9.1, 8.2],
     "neg_scores": [0.3]}
    {"task_prompt": "...", "query": "...", "pos": ["..."], "neg": ["..."]}
    {"query": ["instruction", "..."], "pos": ["instruction", "..."], "neg": ["instruction", "..."], "task_id": 1}

In MEDI each text is a pair of an instruction and the text; its flat rows have the instructions as columns.
"""

from __future__ import annotations

from functools import partial

from dec2vec.files.formats import Row
from dec2vec.files.layouts.layout import layout
from dec2vec.files.layouts.query import (
    DOCUMENT_INSTRUCTION,
    QUERY_INSTRUCTION,
    MisshapenError,
    Query,
    described,
    scores_in,
    text_in,
    texts_in,
)


def _lists(column: str, row: Row) -> Query:
    """`column` has the instruction of a row."""
    instruction = text_in(row, column)
    return Query(
        text_in(row, "query"),
        texts_in(row, "pos"),
        texts_in(row, "neg"),
        scores_in(row, "pos_scores"),
        scores_in(row, "neg_scores"),
        {QUERY_INSTRUCTION: instruction} if instruction else {},
    )


def _instructed(row: Row) -> Query:
    instruction, anchor = _with_instruction("query", row["query"])
    positives, negatives = ([_with_instruction(name, item) for item in _items(row, name)] for name in ("pos", "neg"))
    extra: Row = {QUERY_INSTRUCTION: instruction}
    if positives:
        extra[DOCUMENT_INSTRUCTION] = positives[0][0]
    return Query(anchor, [text for _, text in positives], [text for _, text in negatives if text], extra=extra)


def _items(row: Row, column: str) -> list[object]:
    """One pair of an instruction and a text, or a list of such pairs."""
    value = row.get(column)
    if value is None or value == []:
        return []
    if isinstance(value, list):
        return value if isinstance(value[0], list) else [value]
    raise MisshapenError(f"{column} is {described(value)}, not a list of an instruction and a text")


def _with_instruction(column: str, value: object) -> tuple[str, str]:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return str(value[0]), str(value[1])
    raise MisshapenError(f"{column} is {described(value)}, not a list of an instruction and a text")


def _is_instructed(row: Row) -> bool:
    return isinstance(row["query"], list)


_IDS = "id query_id pos_id neg_id task_id task_name type"
FLAG_EMBEDDING = layout(
    "FlagEmbedding",
    "query pos",
    partial(_lists, "prompt"),
    texts="neg",
    used=_IDS,
    scores="pos_scores neg_scores",
    instructions="prompt",
    fits_values=lambda row: not _is_instructed(row) and "task_prompt" not in row,
)
E5 = layout(
    "E5 or BGE-ICL",
    "query pos",
    partial(_lists, "task_prompt"),
    texts="neg",
    used=_IDS,
    scores="pos_scores neg_scores",
    instructions="task_prompt",
    fits_values=lambda row: not _is_instructed(row) and "task_prompt" in row,
)
MEDI = layout("MEDI", "query pos", _instructed, texts="neg", used=_IDS, fits_values=_is_instructed)
LAYOUTS = (FLAG_EMBEDDING, E5, MEDI)
