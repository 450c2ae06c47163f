"""What a row of pairs has besides its texts: a reranker's scores of its documents, and instructions.

The scores of a row are a list in `teacher_scores`, `scores`, `score`, `labels` or `label`: one of the positive, then
one of each negative, null where there is none; or, as for sentence-transformers' MarginMSE, margins
(`train.data.row_scores`).

The instruction of a query (`query_instruction` or `instruction`) takes the place of `model.task` in its prompt, and
`document_instruction` does so in the prompt of the row's documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dec2vec.errors import UserError
from dec2vec.files.layouts.query import DOCUMENT_INSTRUCTION, LABELS, QUERY_INSTRUCTION, SCORES
from dec2vec.files.tables import Table
from dec2vec.prompts.prompt import PUBLISHED, Side, takes_task
from train.config import TrainConfig
from train.data.row_scores import ScoreReader
from train.data.table import SourceTable
from train.losses.per_source import losses_of
from train.options.data import SourceConfig
from train.options.losses import ScoreScale

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
    part: SourceTable, table: Table, rows: Sequence[int], extras: Extras, scores: ScoreReader | None
) -> SourceTable:
    """The pairs `part`, read from these rows of a table, with their extras. Rows with faulty scores are left out."""
    if extras.query_instruction or extras.document_instruction:
        queries = _QUERY if extras.query_instruction else ()
        documents = (DOCUMENT_INSTRUCTION,) if extras.document_instruction else ()
        part = replace(part, instructions=[(_text(table, row, queries), _text(table, row, documents)) for row in rows])
    if scores is None:
        return part
    found = scores.read(table, rows)
    if extras.scores == "probability":
        _check_probabilities(table, rows, scores, found)
    kept = [place for place, of_row in enumerate(found) if of_row is not None]
    part = part if len(kept) == len(found) else part.keep(kept)
    return replace(part, document_scores=[of_row for of_row in found if of_row is not None])


def lines(table: SourceTable, extras: Extras, scores: ScoreReader | None, source: SourceConfig) -> list[str]:
    """What there is to tell. UserError if a loss needs scores and no row has two, and for too many faulty rows."""
    found = []
    if scores is not None:
        found += scores.told(source.path, source.bad_rows)
        found.append(_line_of_scores(table, extras, scores, source.path))
    names = [name for name in dict.fromkeys(name for row in table.instructions for name in row) if name]
    if names:
        found.append(f"instructions of the rows in place of model.task ({len(names):,} different)")
    return found


def _line_of_scores(table: SourceTable, extras: Extras, reader: ScoreReader, name: str) -> str:
    are_margins = reader.layout.are_margins
    counted, unit = 0, extras.scores == "logit" and not are_margins
    for scores in table.document_scores:
        known = [score for score in scores if not math.isnan(score)]
        counted += len(known) >= 2
        unit = unit and all(0 <= score <= 1 for score in known)
    if not counted:
        columns = ", ".join(dict.fromkeys([*SCORES, *LABELS]))
        raise UserError(
            f"{name}: loss.kind distil_reranker: no row has scores of two documents (a list in {columns}, or "
            "FlagEmbedding's pos_scores and neg_scores); add them with dec2vec mine --rescore, or use another loss"
        )
    note = "; all are between 0 and 1: set score_scale probability if that is what they are" if unit else ""
    what = "margins of a reranker (by how much the positive is ahead)" if are_margins else "scores of a reranker"
    return f"{what} in {counted:,} of {len(table):,} pairs{note}"


def _check_probabilities(
    table: Table, rows: Sequence[int], reader: ScoreReader, found: Sequence[Sequence[float] | None]
) -> None:
    """UserError where the scores of a row cannot be probabilities."""
    for row, scores in zip(rows, found, strict=True):
        known = [score for score in scores or () if not math.isnan(score)]
        if known and (reader.layout.are_margins or not all(0 <= score <= 1 for score in known)):
            what = "margins" if reader.layout.are_margins else "numbers, but not all from 0 to 1"
            has = reader.layout.cell(table, row)
            raise UserError(f"{table.where(row)}: {has} has {what}; use loss.score_scale logit")


def _text(table: Table, row: int, columns: Sequence[str]) -> str:
    """The first of the cells that is filled; empty if none is."""
    found = next(iter(table.filled(row, [name for name in columns if name in table.rows[row]])), "")
    return found
