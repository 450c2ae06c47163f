"""The inputs of some data rows, by kind of row, and the part that each input plays in the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from train.data.prompted_input import NO_INSTRUCTIONS, PromptedInput, prompted_input, reading_keys, text_keys
from train.data.table import Texts
from train.losses.inputs import (
    NO_ANCHOR,
    NO_ID,
    GradedInputs,
    LabelledInputs,
    LossInputs,
    PairInputs,
    Readings,
    ScoredDocuments,
)
from train.options.data import Kind, SourceConfig


@dataclass(frozen=True)
class DataRow:
    """A row of the data, with its texts normalised as the model reads them."""

    source_number: int
    source: SourceConfig
    texts: Texts
    score: float
    label: str
    document_id: str
    scores: tuple[float, ...] = ()
    instructions: tuple[str, str] = NO_INSTRUCTIONS

    def input(self, place: int) -> PromptedInput:
        """Text number `place` in its prompt."""
        return prompted_input(self.source, self.texts[place], place, self.instructions)


@dataclass(frozen=True)
class Plan:
    """The inputs of some data rows, and the part that each input plays in the loss, by its number."""

    inputs: list[PromptedInput]
    parts: LossInputs


def _pairs(rows: Sequence[DataRow]) -> Plan:
    """Anchors first, then the positives in the order of the anchors, then all negatives."""
    anchors = [row.texts[0] for row in rows]
    owners = [*rows, *(row for row in rows for _ in row.texts[2:])]
    documents = [*(row.texts[1] for row in rows), *(text for row in rows for text in row.texts[2:])]
    places = [*([1] * len(rows)), *(place for row in rows for place in range(2, len(row.texts)))]
    inputs = [row.input(0) for row in rows]
    inputs += [row.input(place) for row, place in zip(owners, places, strict=True)]
    negatives = len(documents) - len(anchors)
    keys = text_keys(anchors)
    parts = PairInputs(
        anchors=torch.arange(len(anchors)),
        documents=len(anchors) + torch.arange(len(documents)),
        anchor_keys=keys,
        document_keys=text_keys(documents),
        document_anchors=torch.cat([keys, torch.full((negatives,), NO_ANCHOR)]),
        document_ids=torch.tensor([_id_key(row) for row in rows] + [NO_ID] * negatives, dtype=torch.long),
        scored=_scored(rows) if any(row.scores for row in rows) else None,
    )
    return Plan(inputs, parts)


def _scored(rows: Sequence[DataRow]) -> ScoredDocuments:
    """Documents of each row with their scores. Negatives that were mined since have none."""
    width = max(len(row.texts) for row in rows) - 1
    documents = torch.zeros(len(rows), width, dtype=torch.long)
    scores = torch.full((len(rows), width), torch.nan)
    following = 2 * len(rows)
    for place, row in enumerate(rows):
        negatives = len(row.texts) - 2
        documents[place, 0] = len(rows) + place
        documents[place, 1 : 1 + negatives] = torch.arange(following, following + negatives)
        scores[place, : len(row.scores)] = torch.tensor(row.scores)
        following += negatives
    return ScoredDocuments(documents, scores)


def read_alike(plan: Plan) -> LossInputs:
    """Pairs with the keys by which a loss takes the positives of a query together."""
    if not isinstance(plan.parts, PairInputs):
        return plan.parts
    keys, queries = reading_keys(plan.inputs), len(plan.parts.anchors)
    return replace(plan.parts, readings=Readings(keys[:queries], keys[queries:]))


def _id_key(row: DataRow) -> int:
    """Equal for equal ids of one source; the same id in another source is another document."""
    return int(text_keys([f"{row.source_number} {row.document_id}"])[0]) if row.document_id else NO_ID


def _twins(rows: Sequence[DataRow]) -> Plan:
    """Each text twice, so that dropout makes two different vectors of it (Gao et al. 2021, SimCSE)."""
    inputs = [PromptedInput(row.texts[0], row.source.query_prompt, "text", copy) for copy in (0, 1) for row in rows]
    keys = text_keys([row.texts[0] for row in rows])
    parts = PairInputs(
        anchors=torch.arange(len(rows)),
        documents=len(rows) + torch.arange(len(rows)),
        anchor_keys=keys,
        document_keys=keys,
        document_anchors=keys,
        document_ids=torch.full((len(rows),), NO_ID),
    )
    return Plan(inputs, parts)


def _graded(rows: Sequence[DataRow]) -> Plan:
    """All first texts, then all second ones."""
    inputs = [PromptedInput(row.texts[side], row.source.query_prompt, "text") for side in (0, 1) for row in rows]
    scores = torch.tensor([row.score for row in rows], dtype=torch.float32)
    first_keys, second_keys = (text_keys([row.texts[side] for row in rows]) for side in (0, 1))
    numbers = torch.arange(len(rows))
    return Plan(inputs, GradedInputs(numbers, len(rows) + numbers, scores, first_keys, second_keys))


def _labelled(rows: Sequence[DataRow]) -> Plan:
    inputs = [PromptedInput(row.texts[0], row.source.query_prompt, "text") for row in rows]
    return Plan(inputs, LabelledInputs(torch.arange(len(inputs)), text_keys([row.label for row in rows])))


def for_teachers(rows: Sequence[DataRow]) -> Plan:
    """Texts that are only compared with a teacher's vectors: no second copy, and no part in another loss."""
    inputs = [row.input(place) for row in rows for place in range(len(row.texts))]
    return Plan(inputs, LabelledInputs(torch.arange(len(inputs)), torch.zeros(len(inputs), dtype=torch.long)))


PLANS: dict[Kind, Callable[[Sequence[DataRow]], Plan]] = {
    "pairs": _pairs,
    "graded": _graded,
    "texts": _twins,
    "labelled": _labelled,
}
