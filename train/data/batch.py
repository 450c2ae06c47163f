"""A step's rows on one rank: padded chunks over all their texts, and which of these play which part in the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dec2vec.batching import CHUNK_OVERHEAD, Chunk, TokenIds, deduplicate, make_chunks
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.shared_prefix import WORTHWHILE, common_prefix
from dec2vec.encoder import Encoder
from dec2vec.prompts.prompt import NORMALIZERS, Side
from train.adapters.capabilities import why_not_shared
from train.config import Kind, LossConfig, SourceConfig
from train.data.dataset import TrainingData
from train.data.prompted_input import PromptedInput, TokenSource, prompted_input, text_keys, tokenized
from train.data.sampler import Indices, shard
from train.data.table import Texts
from train.losses.inputs import NO_ANCHOR, NO_ID, GradedInputs, LabelledInputs, LossInputs, PairInputs, TeacherInputs

NO_TEACHERS: Mapping[str, Any] = MappingProxyType({})
Asked = tuple[str, Side]
"""What a teacher is asked for: a text, normalised as the student reads it, and its side."""


@runtime_checkable
class Teacher(Protocol):
    """Whose vectors a loss compares with."""

    def keys_of(self, asked: Sequence[Asked]) -> Int[Tensor, " text"]:
        """Equal where it reads the same."""

    def of(self, asked: Sequence[Asked]) -> Float[Tensor, "text teacher_dim"]:
        """Its vectors of these texts."""


@dataclass(frozen=True)
class LocalBatch:
    """One rank's share of a step. `real_tokens` and the chunks' padded tokens tell how much is padding.

    `losses` are those of the source that the batch is from; none means the run's own.
    Where all texts begin with the same `prefix`, the chunks hold what follows it.
    """

    chunks: list[Chunk]
    rows: LossInputs
    losses: tuple[LossConfig, ...]
    pairs: int
    real_tokens: int
    prefix: Int[Tensor, " prefix"] | None = None
    teachers: Mapping[str, TeacherInputs] = field(default_factory=dict)

    @property
    def padded_tokens(self) -> int:
        """Token positions of one forward pass over the share."""
        return sum(chunk.padded_tokens for chunk in self.chunks) + (0 if self.prefix is None else len(self.prefix))


@dataclass(frozen=True)
class _Row:
    """A row of the data with what is said of it; its texts as they are read."""

    number: int
    source: SourceConfig
    texts: Texts
    score: float
    label: str
    document_id: str


@dataclass(frozen=True)
class _Plan:
    """Texts to embed, and how the place of each among the embedded ones makes the rows."""

    readings: list[PromptedInput]
    rows: Callable[[Tensor], LossInputs]


def prepare(
    data: TrainingData,
    batch: Indices,
    encoder: Encoder,
    chunk_tokens: int,
    *,
    rank: int = 0,
    world: int = 1,
    share_prefix: bool = False,
    losses: tuple[LossConfig, ...] = (),
    teachers: Mapping[str, Teacher] = NO_TEACHERS,
    known: TokenSource | None = None,
) -> LocalBatch:
    """Tokenise this rank's share of the global `batch`, embed equal texts once, sort all by length into chunks.

    A rank without a row (fewer rows than ranks in the last batch) embeds one empty text that no loss reads, so
    that it still takes part in the reduction of the gradients. `known` ids are not made anew.
    """
    normalize = NORMALIZERS[encoder.config.text_normalization]  # texts that are read as equal have equal keys
    first, _ = data.place(int(batch[0]) if len(batch) else 0)
    source = data.sources[first]
    share = [_row(data, int(row), normalize) for row in shard(batch, rank, world)]
    own = source.losses or losses
    plan = _once(share) if own and all(loss.teacher for loss in own) else _PLANS[source.kind](share)
    unique, place = _embedded_once(plan.readings, encoder, known)
    beginning = shared_beginning(unique, encoder.embedder) if share_prefix else []
    rests = [row[len(beginning) :] for row in unique]
    planned = make_chunks(rests, chunk_tokens, CHUNK_OVERHEAD[encoder.device.type])
    return LocalBatch(
        chunks=[chunk.to(encoder.device) for chunk in planned],
        rows=plan.rows(place).to(encoder.device),
        losses=own,
        teachers={
            loss.teacher: _taught(plan, unique, place, teachers[loss.teacher]).to(encoder.device)
            for loss in own
            if loss.teacher
        },
        pairs=len(share),
        real_tokens=sum(map(len, unique)) - len(beginning) * (len(unique) - 1),
        prefix=torch.tensor(beginning, device=encoder.device) if beginning else None,
    )


def _row(data: TrainingData, number: int, normalize: Callable[[str], str]) -> _Row:
    source, row = data.place(number)
    table = data.tables[source]
    return _Row(
        number=source,
        source=data.sources[source],
        texts=tuple(map(normalize, table.texts[row])),
        score=table.scores[row] if table.scores else 0.0,
        label=table.labels[row] if table.labels else "",
        document_id=table.ids[row] if table.ids else "",
    )


def _embedded_once(
    readings: Sequence[PromptedInput], encoder: Encoder, known: TokenSource | None
) -> tuple[list[TokenIds], Tensor]:
    """The different sequences to embed, and each reading's place among them."""
    ids = tokenized(readings, encoder, known)
    unique: list[TokenIds] = []
    place = np.empty(len(readings), dtype=np.int64)
    for view in sorted({reading.view for reading in readings}):
        mine = [row for row, reading in enumerate(readings) if reading.view == view]
        found, inverse = deduplicate([ids[row] for row in mine])
        place[mine] = inverse + len(unique)
        unique += found
    return unique or [encoder.tokenize([""])[0]], torch.from_numpy(place)


def _pairs(share: Sequence[_Row]) -> _Plan:
    """Documents: the positives in the order of the anchors, then all negatives."""
    anchors = [row.texts[0] for row in share]
    owners = [*share, *(row for row in share for _ in row.texts[2:])]
    documents = [*(row.texts[1] for row in share), *(text for row in share for text in row.texts[2:])]
    readings = [PromptedInput(row.texts[0], row.source.query_prompt) for row in share]
    for row, text in zip(owners, documents, strict=True):
        readings.append(PromptedInput(text, row.source.document_prompt, side="document"))
    negatives = len(documents) - len(anchors)
    keys = text_keys(anchors)
    ids = [_id_key(row) for row in share] + [NO_ID] * negatives
    return _Plan(
        readings,
        lambda place: PairInputs(
            anchors=place[: len(anchors)],
            documents=place[len(anchors) :],
            anchor_keys=keys,
            document_keys=text_keys(documents),
            document_anchors=torch.cat([keys, torch.full((negatives,), NO_ANCHOR)]),
            document_ids=torch.tensor(ids, dtype=torch.long),
        ),
    )


def _id_key(row: _Row) -> int:
    """Ids are one source's own: row 7 of another file is another document."""
    return int(text_keys([f"{row.number} {row.document_id}"])[0]) if row.document_id else NO_ID


def _twins(share: Sequence[_Row]) -> _Plan:
    """Each text twice, so that dropout makes two views of it (Gao et al. 2021, SimCSE)."""
    texts = [row.texts[0] for row in share]
    readings = [PromptedInput(row.texts[0], row.source.query_prompt, view=view) for view in (0, 1) for row in share]
    keys = text_keys(texts)
    return _Plan(
        readings,
        lambda place: PairInputs(
            anchors=place[: len(texts)],
            documents=place[len(texts) :],
            anchor_keys=keys,
            document_keys=keys,
            document_anchors=keys,
            document_ids=torch.full((len(texts),), NO_ID),
        ),
    )


def _graded(share: Sequence[_Row]) -> _Plan:
    readings = [PromptedInput(row.texts[side], row.source.query_prompt) for side in (0, 1) for row in share]
    scores = torch.tensor([row.score for row in share], dtype=torch.float32)
    keys = [text_keys([row.texts[side] for row in share]) for side in (0, 1)]
    return _Plan(readings, lambda place: GradedInputs(place[: len(share)], place[len(share) :], scores, *keys))


def _once(share: Sequence[_Row]) -> _Plan:
    """Texts that are only compared with a teacher's vectors: no second view, no parts to play."""
    readings = [prompted_input(row.source, row.texts[place], place) for row in share for place in range(len(row.texts))]
    return _Plan(readings, lambda place: LabelledInputs(place, torch.zeros(len(place), dtype=torch.long)))


def _taught(plan: _Plan, unique: Sequence[TokenIds], place: Tensor, teacher: Teacher) -> TeacherInputs:
    """Every different reading of the share once, at its first place: what the student reads, and what the teacher."""
    asked = [(reading.text, reading.side) for reading in plan.readings]
    pairs = zip(place.tolist(), teacher.keys_of(asked).tolist(), strict=True)
    keys = text_keys([f"{unique[at]} {key}" for at, key in pairs])
    first: dict[int, int] = {}
    for number, key in enumerate(keys.tolist()):
        first.setdefault(key, number)
    chosen = list(first.values())
    return TeacherInputs(place[chosen], teacher.of([asked[number] for number in chosen]), keys[chosen])


def _labelled(share: Sequence[_Row]) -> _Plan:
    readings = [PromptedInput(row.texts[0], row.source.query_prompt) for row in share]
    labels = text_keys([row.label for row in share])
    return _Plan(readings, lambda place: LabelledInputs(place, labels))


_PLANS: dict[Kind, Callable[[Sequence[_Row]], _Plan]] = {
    "pairs": _pairs,
    "graded": _graded,
    "texts": _twins,
    "labelled": _labelled,
}


def shared_beginning(ids: Sequence[Sequence[int]], embedder: Embedder) -> list[int]:
    """The tokens that all texts begin with, where running them once is worth it and gives the same gradient."""
    if len(ids) < 2 or len(shared := common_prefix(ids)) < WORTHWHILE or why_not_shared(embedder) is not None:
        return []
    return shared
