"""What a row of pairs has besides its texts: a reranker's scores of its documents, and instructions.

The scores of a row are a list in `teacher_scores`, `scores`, `score`, `labels` or `label`: one of the positive, then
one of each negative, null where there is none. As in sentence-transformers' MarginMSE, a list that is one shorter, or a
single number beside a single negative, says by how much the positive is ahead of each negative.

The instruction of a query (`query_instruction` or `instruction`) takes the place of `model.task` in its prompt, and
`document_instruction` does so in the prompt of the row's documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dec2vec.errors import UserError
from dec2vec.files.cells import is_absent, is_number
from dec2vec.files.layouts.query import DOCUMENT_INSTRUCTION, LABELS, QUERY_INSTRUCTION, SCORES, TEACHER_SCORES
from dec2vec.files.tables import Table
from dec2vec.prompts.prompt import PUBLISHED, Side, takes_task
from train.config import TrainConfig
from train.data.table import SourceTable
from train.losses.per_source import losses_of
from train.options.data import SourceConfig
from train.options.losses import ScoreScale

NO_SCORE = math.nan
Scores = tuple[float, ...]
Instructions = tuple[str, str]
"""Of the query and of the documents; empty where the row has none."""
_QUERY = (QUERY_INSTRUCTION, "instruction")


@dataclass(frozen=True)
class Extras:
    """What a run uses of it. The rest is not read, and no part of what identifies the data."""

    scores: ScoreScale | None = None
    query_instruction: bool = False
    document_instruction: bool = False

    def columns(self, *, own: bool) -> list[str]:
        """The columns that are used where rows have them; `own` rows are those of `anchor` and `positive`."""
        scores = [*SCORES, *(LABELS if own else ())] if self.scores is not None else []
        queries = _QUERY if self.query_instruction else ()
        return [*scores, *queries, *([DOCUMENT_INSTRUCTION] if self.document_instruction else [])]


NOTHING = Extras()


def extras_of(config: TrainConfig, source: SourceConfig) -> Extras:
    """What the losses and the prompts of a source use."""
    if source.kind != "pairs":
        return NOTHING
    scales = [loss.score_scale for loss in losses_of(source, config) if loss.kind == "distil_reranker"]
    prompts: dict[Side, str | None] = {"query": source.query_prompt, "document": source.document_prompt}
    takes = {side: takes_task(prompt or config.model.prompt or PUBLISHED, side) for side, prompt in prompts.items()}
    scale: ScoreScale | None = "probability" if "probability" in scales else "logit" if scales else None
    return Extras(scale, takes["query"], takes["document"])


def with_extras(
    part: SourceTable, table: Table, rows: Sequence[int], extras: Extras, negatives: Sequence[str], *, own: bool
) -> SourceTable:
    """The pairs `part`, read from these rows of a table with these columns of negatives, with their extras."""
    if extras.scores is not None:
        named = [*SCORES, *(LABELS if own else ())]
        columns = [TEACHER_SCORES] if TEACHER_SCORES in table.columns else named
        found = [
            _scores(table, row, columns, len(texts) - 2, negatives, extras.scores)
            for row, texts in zip(rows, part.texts, strict=True)
        ]
        part = replace(part, document_scores=found)
    if extras.query_instruction or extras.document_instruction:
        queries = _QUERY if extras.query_instruction else ()
        documents = (DOCUMENT_INSTRUCTION,) if extras.document_instruction else ()
        part = replace(part, instructions=[(_text(table, row, queries), _text(table, row, documents)) for row in rows])
    return part


def lines(table: SourceTable, extras: Extras, name: str) -> list[str]:
    """What there is to tell. UserError if a loss needs scores and no row has two."""
    found = []
    if extras.scores is not None:
        known = [[score for score in scores if not math.isnan(score)] for scores in table.document_scores]
        counted = sum(len(scores) >= 2 for scores in known)
        if not counted:
            raise UserError(
                f"{name}: loss.kind distil_reranker: no row has scores of two documents (column {TEACHER_SCORES}, or "
                "pos_scores and neg_scores); add them with dec2vec mine --rescore, or use another loss"
            )
        unit = extras.scores == "logit" and all(0 <= score <= 1 for scores in known for score in scores)
        note = "; all are between 0 and 1: set score_scale probability if that is what they are" if unit else ""
        found.append(f"scores of a reranker in {counted:,} of {len(table):,} pairs{note}")
    names = [name for name in dict.fromkeys(name for row in table.instructions for name in row) if name]
    if names:
        found.append(f"instructions of the rows in place of model.task ({len(names):,} different)")
    return found


def _scores(
    table: Table, row: int, columns: Sequence[str], count: int, negatives: Sequence[str], scale: ScoreScale
) -> Scores:
    """The scores of a row's positive and its `count` negatives."""
    column = next((name for name in columns if not is_absent(table.rows[row].get(name))), None)
    value = None if column is None else table.rows[row][column]
    if column is None or not (isinstance(value, list) or (count == 1 and is_number(str(value)))):
        return (NO_SCORE,) * (1 + count)  # a number beside several negatives, or a word, is about something else
    numbers = [_number(table, row, column, item) for item in (value if isinstance(value, list) else [value])]
    cells = [table.rows[row].get(name) for name in negatives]
    if len(numbers) == 1 + len(cells) and len(cells) > count:  # a score for each column, also for an empty one
        kept = [number for number, cell in zip(numbers[1:], cells, strict=True) if not (is_absent(cell) or cell == "")]
        numbers = [numbers[0], *kept]
    are_margins = len(numbers) == count > 0
    if len(numbers) != 1 + count and not are_margins:
        raise UserError(
            f"{table.where(row)}: {column} has {len(numbers)} numbers, but the row has 1 positive and {count} "
            "negatives; give each a score, null where there is none"
        )
    if scale == "probability" and (are_margins or any(number < 0 or number > 1 for number in numbers)):
        what = "margins" if are_margins else "numbers, but not all from 0 to 1"
        raise UserError(f"{table.where(row)}: {column} {value} has {what}; use --loss.score_scale logit")
    return (0.0, *(-number for number in numbers)) if are_margins else tuple(numbers)


def _number(table: Table, row: int, column: str, value: object) -> float:
    if is_absent(value):
        return NO_SCORE
    if isinstance(value, bool) or not is_number(str(value)):
        raise UserError(
            f"{table.where(row)}: {column} has {str(value)[:40]!r} in place of a number; mend it or use null"
        )
    return float(str(value))


def _text(table: Table, row: int, columns: Sequence[str]) -> str:
    """The first of the cells that is filled; empty if none is."""
    found = next(iter(table.filled(row, [name for name in columns if name in table.rows[row]])), "")
    return found
