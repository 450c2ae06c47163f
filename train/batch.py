"""A step's pairs on one rank: padded chunks over all its texts, and which of them are anchors and documents."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from dec2vec.batching import CHUNK_OVERHEAD, Chunk, deduplicate, make_chunks
from dec2vec.encoder import Encoder
from dec2vec.prompts import NORMALIZERS
from train.data import PairTable
from train.prefix_gradient import shared_beginning
from train.rows import NO_ANCHOR, PairRows
from train.sampler import Indices


@dataclass(frozen=True)
class LocalBatch:
    """One rank's share of a step. `real_tokens` and the chunks' padded tokens tell how much is padding.

    Where all texts begin with the same `prefix`, the chunks hold what follows it.
    """

    chunks: list[Chunk]
    rows: PairRows
    pairs: int
    real_tokens: int
    prefix: Int[Tensor, " prefix"] | None = None

    @property
    def padded_tokens(self) -> int:
        """Token positions of one forward pass over the share."""
        return sum(chunk.padded_tokens for chunk in self.chunks) + (0 if self.prefix is None else len(self.prefix))


def prepare(
    table: PairTable, indices: Indices, encoder: Encoder, chunk_tokens: int, *, share_prefix: bool = False
) -> LocalBatch:
    """Tokenise the pairs at `indices`, embed equal texts once, and sort all texts by length into chunks.

    A rank without a pair (fewer pairs than ranks in the last batch) embeds one empty text that no loss reads, so
    that it still takes part in the reduction of the gradients.
    """
    anchors = [table.anchors[row] for row in indices]
    positives = [table.positives[row] for row in indices]
    negatives = [text for row in indices for text in table.negatives[row]]
    documents = positives + negatives
    normalize = NORMALIZERS[encoder.config.text_normalization]  # texts that are read as equal have equal keys
    anchors, documents = ([normalize(text) for text in texts] for texts in (anchors, documents))
    ids = encoder.tokenize(anchors, side="query") + encoder.tokenize(documents, side="document")
    unique, inverse = deduplicate(ids or encoder.tokenize([""]))
    place = torch.from_numpy(inverse)
    rows = PairRows(
        anchors=place[: len(anchors)],
        documents=place[len(anchors) : len(anchors) + len(documents)],
        anchor_keys=text_keys(anchors),
        document_keys=text_keys(documents),
        document_anchors=torch.cat([text_keys(anchors), torch.full((len(negatives),), NO_ANCHOR)]),
    )
    beginning = shared_beginning(unique, encoder.embedder) if share_prefix else []
    own = [row[len(beginning) :] for row in unique]
    planned = make_chunks(own, chunk_tokens, CHUNK_OVERHEAD[encoder.device.type])
    chunks = [chunk.to(encoder.device) for chunk in planned]
    prefix = torch.tensor(beginning, device=encoder.device) if beginning else None
    return LocalBatch(
        chunks,
        rows.to(encoder.device),
        len(anchors),
        sum(map(len, unique)) - len(beginning) * (len(unique) - 1),
        prefix,
    )


def text_keys(texts: Sequence[str]) -> Tensor:
    """63-bit hashes that are equal for equal texts in every process (Python's own hash differs between them)."""
    digests = (hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8) for text in texts)
    return torch.tensor([int.from_bytes(digest.digest(), "big") >> 1 for digest in digests], dtype=torch.long)
