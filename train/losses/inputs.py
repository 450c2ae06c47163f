"""Which of a step's embedded texts play which part in the loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NO_ANCHOR = -1
NO_ID = -1
NEVER = -2
"""Equal to no key of a text, an anchor or an id."""


def is_first(keys: Int[Tensor, " row"]) -> Bool[Tensor, " row"]:
    """Whether no earlier row has the same key."""
    distinct, inverse = torch.unique(keys, return_inverse=True)
    places = torch.arange(len(keys), device=keys.device)
    first = torch.full_like(distinct, len(keys)).scatter_reduce(0, inverse, places, "amin")
    return first[inverse] == places


@dataclass(frozen=True)
class KnownAnswers:
    """What the data know of a batch's pairs besides the batch: keys of texts, padded with `NEVER`.

    Of each pair the right answers to its query, and the queries that its positive answers, which the whole batch holds
    but does not show to be that.
    """

    answers: Int[Tensor, "query answer"]
    askers: Int[Tensor, "query asker"]

    def to(self, device: torch.device) -> KnownAnswers:
        """The same keys on `device`."""
        return KnownAnswers(self.answers.to(device), self.askers.to(device))


@dataclass(frozen=True)
class Readings:
    """Keys of a batch's queries and documents in their prompts: equal for texts of which one vector is enough."""

    queries: Int[Tensor, query]
    documents: Int[Tensor, doc]

    def to(self, device: torch.device) -> Readings:
        """The same keys on `device`."""
        return Readings(self.queries.to(device), self.documents.to(device))


@dataclass(frozen=True)
class ScoredDocuments:
    """The documents of each pair's own row, its positive first, with the scores that a reranker gave them.

    NaN where there is no score, and behind the last document, where the number of the text means nothing.
    """

    documents: Int[Tensor, "query place"]
    scores: Float[Tensor, "query place"]

    def reindexed(self, numbers: Int[Tensor, " text"]) -> ScoredDocuments:
        """The same documents for other numbers of the texts."""
        return replace(self, documents=numbers[self.documents])

    def to(self, device: torch.device) -> ScoredDocuments:
        """The same rows with their tensors on `device`."""
        return ScoredDocuments(self.documents.to(device), self.scores.to(device))


@dataclass(frozen=True)
class PairInputs:
    """Which of the unique embedded texts are anchors and documents, and the keys that tell equal texts.

    Documents are the positives in the order of the anchors, then the hard negatives. Keys are 63-bit hashes of the
    texts (not of their ids, which differ between query and document), equal on every rank; `document_anchors` is the
    key of a positive's anchor, -1 for a negative; `document_ids` is the key of the document's id in the data, -1 where
    it has none.
    """

    anchors: Int[Tensor, query]
    documents: Int[Tensor, doc]
    anchor_keys: Int[Tensor, query]
    document_keys: Int[Tensor, doc]
    document_anchors: Int[Tensor, doc]
    document_ids: Int[Tensor, doc]
    known: KnownAnswers | None = None
    readings: Readings | None = None
    """Only where the positives of a query are taken together."""
    scored: ScoredDocuments | None = None
    """Only where the data have a reranker's scores that a loss uses."""

    def reindexed(self, numbers: Int[Tensor, " text"]) -> PairInputs:
        """The same parts for other numbers of the texts: text i gets the number `numbers[i]`."""
        scored = None if self.scored is None else self.scored.reindexed(numbers)
        return replace(self, anchors=numbers[self.anchors], documents=numbers[self.documents], scored=scored)

    def to(self, device: torch.device) -> PairInputs:
        """The same rows with their tensors on `device`."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class GradedInputs:
    """Pairs of texts with a score: the higher, the closer they shall be (CoSENT, AnglE). Keys as in `PairInputs`."""

    first: Int[Tensor, pair]
    second: Int[Tensor, pair]
    scores: Float[Tensor, pair]
    first_keys: Int[Tensor, pair]
    second_keys: Int[Tensor, pair]

    def reindexed(self, numbers: Int[Tensor, " text"]) -> GradedInputs:
        """The same parts for other numbers of the texts: text i gets the number `numbers[i]`."""
        return replace(self, first=numbers[self.first], second=numbers[self.second])

    def to(self, device: torch.device) -> GradedInputs:
        """The same rows with their tensors on `device`."""
        return GradedInputs(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class LabelledInputs:
    """Texts with a label (supervised contrast). Labels are 63-bit keys, equal on every rank."""

    texts: Int[Tensor, text]
    labels: Int[Tensor, text]

    def reindexed(self, numbers: Int[Tensor, " number"]) -> LabelledInputs:
        """The same parts for other numbers of the texts: text i gets the number `numbers[i]`."""
        return replace(self, texts=numbers[self.texts])

    def to(self, device: torch.device) -> LabelledInputs:
        """The same rows with their tensors on `device`."""
        return LabelledInputs(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class TeacherInputs:
    """Texts with the vectors of a teacher (distillation).

    Texts with equal keys, on any rank, are read alike by both models, so the loss counts one of them.
    """

    texts: Int[Tensor, text]
    vectors: Float[Tensor, "text teacher_dim"]
    keys: Int[Tensor, text]

    def reindexed(self, numbers: Int[Tensor, " number"]) -> TeacherInputs:
        """The same parts for other numbers of the texts: text i gets the number `numbers[i]`."""
        return replace(self, texts=numbers[self.texts])

    def to(self, device: torch.device) -> TeacherInputs:
        """The same rows with their tensors on `device`."""
        return TeacherInputs(*(tensor.to(device) for tensor in vars(self).values()))


LossInputs = PairInputs | GradedInputs | LabelledInputs | TeacherInputs
