"""From the rows of a step to padded chunks of token sequences, and to the part that each sequence plays in the loss.

Four things are numbered on the way, each by indices of its own:

- a data row is a row of the training data, counted over all sources: what the sampler draws;
- an input is a text in its prompt, as the loss needs it; a data row has one or more;
- a sequence is a list of token ids; equal inputs share one, so that it is embedded once;
- a chunk row is a row of a padded chunk; `Chunk.rows` holds the numbers of the chunk's sequences.

The embeddings of a step are numbered as its sequences are, and so are the texts in `LocalBatch.loss_inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dec2vec.batching import Chunk, TokenIds, chunk_cost, deduplicate, make_chunks
from dec2vec.decoder.shared_prefix import WORTHWHILE, common_prefix
from dec2vec.encoder import Encoder
from dec2vec.prompts.prompt import NORMALIZERS, Side
from train.data.dataset import TrainingData
from train.data.parts import PLANS, DataRow, for_teachers, read_alike
from train.data.prompted_input import (
    NO_INSTRUCTIONS,
    PromptedInput,
    text_keys,
    tokenized,
)
from train.data.sampler import Indices, shard
from train.data.siblings import Siblings
from train.data.token_cache import TokenCache
from train.losses.inputs import (
    LossInputs,
    PairInputs,
    TeacherInputs,
)
from train.options.losses import LossConfig

Asked = tuple[str, Side]
"""What a teacher embeds: a text, normalised as the student reads it, and its side."""


@runtime_checkable
class Teacher(Protocol):
    """The model whose vectors a distillation loss compares with."""

    def keys_of(self, asked: Sequence[Asked]) -> Int[Tensor, " text"]:
        """Equal for texts that the teacher reads alike."""

    def of(self, asked: Sequence[Asked]) -> Float[Tensor, "text teacher_dim"]:
        """The teacher's vectors of these texts."""


@dataclass(frozen=True)
class BatchOptions:
    """How a run makes its batches, the same in every step."""

    chunk_tokens: int
    """Padded tokens of a chunk."""
    share_prefix: bool = False
    """Whether the tokens that all texts begin with are run once; only where `why_not_shared` finds no reason not to."""
    losses: tuple[LossConfig, ...] = ()
    """The losses of sources that have none of their own."""
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    siblings: Siblings | None = None
    """Right answers in other rows, which are never negatives; None looks at the rows of the batch alone."""
    token_source: TokenCache | None = None
    """Token ids that were made before; texts are tokenized where it has none."""
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class LocalBatch:
    """One rank's part of a step's batch."""

    chunks: list[Chunk]
    """All sequences, each once, without the `prefix` that all of them begin with."""
    loss_inputs: LossInputs
    losses: tuple[LossConfig, ...]
    """The losses of the source that the batch comes from; empty if the run's loss is used."""
    pairs: int
    """Data rows."""
    real_tokens: int
    """Tokens without padding; a shared prefix counts once."""
    prefix: Int[Tensor, " prefix"] | None = None
    teachers: Mapping[str, TeacherInputs] = field(default_factory=dict)

    @property
    def padded_tokens(self) -> int:
        """Token positions of one forward pass over all chunks."""
        return sum(chunk.padded_tokens for chunk in self.chunks) + (0 if self.prefix is None else len(self.prefix))


def prepare(data: TrainingData, batch: Indices, encoder: Encoder, options: BatchOptions) -> LocalBatch:
    """Tokenize this rank's part of the global `batch`, which holds numbers of data rows, and divide it into chunks.

    A rank without a row (if the last batch has fewer rows than there are ranks) embeds one short text that no loss
    reads, so that it still takes part in the reduction of the gradients.
    """
    normalize = NORMALIZERS[encoder.config.text_normalization]  # equal keys for texts that the model reads as equal
    first_source, _ = data.place(int(batch[0]) if len(batch) else 0)
    source = data.sources[first_source]
    rows = _data_rows(data, shard(batch, options.rank, options.world), normalize)
    losses = source.losses or options.losses
    plan = for_teachers(rows) if losses and all(loss.teacher for loss in losses) else PLANS[source.kind](rows)
    sequences, sequence_of_input = _unique_sequences(plan.inputs, encoder, options.token_source)
    borders = encoder.length_borders
    may_share = options.share_prefix and not any(len(sequence) > border for sequence in sequences for border in borders)
    beginning = shared_beginning(sequences) if may_share else []
    rests = [sequence[len(beginning) :] for sequence in sequences]
    chunks = make_chunks(rests, options.chunk_tokens, chunk_cost(encoder.device), borders)
    teachers = {loss.teacher: options.teachers[loss.teacher] for loss in losses if loss.teacher}
    parts = read_alike(plan) if any(loss.positives != "each" for loss in losses) else plan.parts
    if options.siblings and isinstance(parts, PairInputs):
        whole = parts if options.world == 1 else PLANS[source.kind](_data_rows(data, batch, normalize)).parts
        parts = _informed(parts, whole, options.siblings)
    return LocalBatch(
        chunks=[chunk.to(encoder.device) for chunk in chunks],
        loss_inputs=parts.reindexed(sequence_of_input).to(encoder.device),
        losses=losses,
        teachers={
            name: _teacher_inputs(plan.inputs, sequences, sequence_of_input, teacher).to(encoder.device)
            for name, teacher in teachers.items()
        },
        pairs=len(rows),
        real_tokens=sum(map(len, sequences)) - len(beginning) * (len(sequences) - 1),
        prefix=torch.tensor(beginning, device=encoder.device) if beginning else None,
    )


def shared_beginning(sequences: Sequence[TokenIds]) -> list[int]:
    """The tokens that all sequences begin with; empty if there are too few for running them once to be worth it."""
    if len(sequences) < 2:
        return []
    beginning = common_prefix(sequences)
    return beginning if len(beginning) >= WORTHWHILE else []


def _data_rows(data: TrainingData, numbers: Indices, normalize: Callable[[str], str]) -> list[DataRow]:
    return [_data_row(data, int(number), normalize) for number in numbers]


def _data_row(data: TrainingData, number: int, normalize: Callable[[str], str]) -> DataRow:
    source, row = data.place(number)
    table = data.tables[source]
    return DataRow(
        source_number=source,
        source=data.sources[source],
        texts=tuple(map(normalize, table.texts[row])),
        score=table.scores[row] if table.scores else 0.0,
        label=table.labels[row] if table.labels else "",
        document_id=table.ids[row] if table.ids else "",
        scores=table.document_scores[row] if table.document_scores else (),
        instructions=table.instructions[row] if table.instructions else NO_INSTRUCTIONS,
    )


def _unique_sequences(
    inputs: Sequence[PromptedInput], encoder: Encoder, token_source: TokenCache | None
) -> tuple[list[TokenIds], Int[Tensor, " input"]]:
    """The different sequences of the inputs, and for each input the number of its sequence."""
    ids = tokenized(inputs, encoder, token_source)
    sequences: list[TokenIds] = []
    sequence_of_input = np.empty(len(inputs), dtype=np.int64)
    for copy in sorted({item.copy for item in inputs}):
        numbers = [number for number, item in enumerate(inputs) if item.copy == copy]
        unique, inverse = deduplicate([ids[number] for number in numbers])
        sequence_of_input[numbers] = inverse + len(sequences)
        sequences += unique
    return sequences or [encoder.tokenize(["a"])[0]], torch.from_numpy(sequence_of_input)


def _informed(parts: PairInputs, whole: LossInputs, siblings: Siblings) -> PairInputs:
    """Pairs with what the data know of their queries and answers; `whole` has the rows of all ranks."""
    assert isinstance(whole, PairInputs)
    return replace(parts, known=siblings.known(parts, whole))


def _teacher_inputs(
    inputs: Sequence[PromptedInput], sequences: Sequence[TokenIds], sequence_of_input: Tensor, teacher: Teacher
) -> TeacherInputs:
    """Inputs that student and teacher read alike count once: the first of them is kept."""
    texts = [(item.text, item.side) for item in inputs]
    pairs = zip(sequence_of_input.tolist(), teacher.keys_of(texts).tolist(), strict=True)
    keys = text_keys([f"{sequences[sequence]} {key}" for sequence, key in pairs])
    first: dict[int, int] = {}
    for number, key in enumerate(keys.tolist()):
        first.setdefault(key, number)
    kept = list(first.values())
    return TeacherInputs(sequence_of_input[kept], teacher.of([texts[number] for number in kept]), keys[kept])
