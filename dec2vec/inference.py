"""Turn token ids into pooled vectors, chunk by chunk. Equal texts, and the prompt they share, are computed once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from dec2vec.batching import Chunk, by_kind, chunk_cost, deduplicate, pad, plan, within
from dec2vec.decoder.embedder import Embedder
from dec2vec.decoder.layers import inner_model
from dec2vec.decoder.pooling import Lengths, View
from dec2vec.decoder.positions import length_borders
from dec2vec.decoder.shared_prefix import WORTHWHILE, SharedPrefix, can_share, common_prefix
from dec2vec.decoder.vision import ReadImage, patches_in
from dec2vec.errors import UserError
from dec2vec.runtime import is_out_of_memory
from dec2vec.vectors.averaging import Part, Vectors


@dataclass
class TokenCounts:
    """Tokens that a decoder has computed: equal texts count once, padding does not count."""

    tokens: int = 0
    prefix: int = 0
    """Those of `tokens` that belong to a beginning shared by several texts, which is computed once."""
    saved: int = 0
    """Not in `tokens`: what reading the common beginning with every text would have added."""
    listener: Callable[[int], object] | None = field(default=None, compare=False, repr=False)
    """Told the tokens of each pass when it is over."""

    def add_prefix(self, prefix: int, texts: int) -> None:
        """Count the tokens that so many texts begin with."""
        self.prefix += prefix
        self.saved += prefix * max(0, texts - 1)
        self.add(prefix)

    def add(self, tokens: int) -> None:
        """Count what one pass has computed."""
        self.tokens += tokens
        if self.listener is not None:
            self.listener(tokens)


@runtime_checkable
class Sharing(Protocol):
    """Processes with equal weights and equal texts, each of which computes a part of the chunks."""

    def part(self, chunks: int) -> list[int]:
        """The numbers of the chunks of this process; at least one, which may also be another process's."""

    def exchange(self, parts: list[list[Vectors]], sizes: Sequence[int]) -> list[list[Vectors]]:
        """The vectors of every chunk by view, from those of this process's chunks. `sizes` has the rows of each."""


Starts = Callable[[Lengths], Lengths | None]
"""The first pooled position of rows of the given lengths; None if pooling begins at their first token."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ChunkedForward:
    """The forward pass of an embedder over chunks of texts. With `share_prefix` a common beginning is computed once."""

    embedder: Embedder
    views: Sequence[View]
    starts: Starts
    batch_tokens: int
    share_prefix: bool = True
    tally: TokenCounts = field(default_factory=TokenCounts)
    sharing: Sharing | None = None
    images: Sequence[ReadImage] = ()
    """Those that negative ids stand for."""

    def __call__(self, ids: Sequence[Sequence[int]]) -> Iterator[Part]:
        """Yield (rows, vectors of each view). Each row comes once, in no particular order.

        No pass has rows with and without images: an id in a text may be that of the image token.
        """
        if not self.images:
            yield from self._by_length(ids)
            return
        has_image = np.array([min(row) < 0 for row in ids], dtype=bool)
        for part in filter(len, (np.flatnonzero(has_image), np.flatnonzero(~has_image))):
            for rows, vectors in self._by_length([ids[row] for row in part.tolist()]):
                yield part[rows], vectors

    def _by_length(self, ids: Sequence[Sequence[int]]) -> Iterator[Part]:
        model = inner_model(self.embedder.backbone)
        borders = [] if model is None else length_borders(model.config.get_text_config())
        for part in by_kind(list(map(len, ids)), borders):
            texts = [ids[row] for row in part]
            # a beginning alone would get the positions of short texts
            share = self.share_prefix and (not borders or len(texts[0]) <= borders[0])
            for rows, vectors in self._of_one_kind(texts, share=share):
                yield part[rows], vectors

    def _of_one_kind(self, ids: Sequence[Sequence[int]], *, share: bool) -> Iterator[Part]:
        unique, inverse = deduplicate(ids)
        order = np.argsort(inverse, kind="stable")
        edges = np.searchsorted(inverse[order], np.arange(len(unique) + 1))
        groups = plan([len(row) for row in unique], self.batch_tokens, chunk_cost(self._device))
        if self.images:
            groups = within(groups, patches_in(self.images, unique), self.batch_tokens)
        prefix = self._prefix(unique) if share else None
        rest = unique if prefix is None else [row[prefix.length :] for row in unique]
        self.tally.add_prefix(0 if prefix is None else prefix.length, len(rest))
        # longest first: a lack of memory shows at once, and the remaining time is not underestimated
        groups.reverse()
        chunks = (pad(rest, group) for group in groups)
        for group, vectors in zip(groups, self._all(groups, chunks, prefix), strict=True):
            self.tally.add(sum(len(rest[row]) for row in group))
            counts = [edges[row + 1] - edges[row] for row in group]
            rows = np.concatenate([order[edges[row] : edges[row + 1]] for row in group])
            yield rows, [np.repeat(array, counts, axis=0) for array in vectors]

    def _all(
        self, groups: Sequence[Sequence[int]], chunks: Iterator[Chunk], prefix: SharedPrefix | None
    ) -> Iterator[list[Vectors]]:
        """The vectors of each chunk, computed here or by another process."""
        if self.sharing is None:
            return (self._embed(chunk, prefix) for chunk in chunks)
        own = set(self.sharing.part(len(groups)))
        mine = [self._embed(chunk, prefix) for number, chunk in enumerate(chunks) if number in own]
        return iter(self.sharing.exchange(mine, list(map(len, groups))))

    @torch.no_grad()
    def _prefix(self, ids: Sequence[Sequence[int]]) -> SharedPrefix | None:
        """The common beginning of all texts, computed once; None if there is little to gain."""
        shared = common_prefix(ids) if len(ids) > 1 else []
        if self.images:
            shared = list(takewhile(lambda id: id >= 0, shared))
        if len(shared) < WORTHWHILE or max(self.embedder.wanted_layers(self.views)) == 0:
            return None
        if not can_share(self.embedder.backbone):
            logger.info("this decoder cannot share a prompt between texts, so it is recomputed for each text")
            return None
        with _evaluating(self.embedder):
            return self.embedder.read_prefix(torch.tensor(shared, device=self._device), self.views)

    @torch.no_grad()
    def _embed(self, chunk: Chunk, prefix: SharedPrefix | None) -> list[Vectors]:
        """Pooled vectors of a chunk. If memory runs out, its two halves are computed one after the other."""
        try:
            moved = chunk.to(self._device)
            full_lengths = moved.lengths if prefix is None else moved.lengths + prefix.length
            with _evaluating(self.embedder):
                pooled = self.embedder(
                    moved.input_ids, moved.lengths, self.views, self.starts(full_lengths), prefix, self.images or None
                )
            return [vectors.cpu().numpy() for vectors in pooled]
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._check_divisible(chunk)
        halves = [self._embed(half, prefix) for half in _halves(chunk)]
        return [np.concatenate(parts) for parts in zip(*halves, strict=True)]

    def _check_divisible(self, chunk: Chunk) -> None:
        """Raise UserError where halves are no way out: other processes would wait for this one's further pass."""
        texts, tokens = len(chunk.lengths), chunk.input_ids.shape[1]
        if self.embedder.passes_are_collective:
            raise UserError(
                f"not enough memory to embed {texts} texts of {tokens} tokens, and with sharded weights a process "
                "can't divide them alone; use a smaller model.max_length, model.dtype bfloat16 or more processes"
            )
        if texts == 1:
            raise UserError(
                f"not enough memory to embed a text of {tokens} tokens; use a smaller model.max_length, "
                "model.dtype bfloat16 or a smaller decoder"
            )

    @property
    def _device(self) -> torch.device:
        return next(self.embedder.parameters()).device


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, without dropout, and back to the earlier mode afterwards."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def _halves(chunk: Chunk) -> list[Chunk]:
    middle = len(chunk.lengths) // 2
    parts = (slice(None, middle), slice(middle, None))
    return [
        Chunk(chunk.rows[part], chunk.input_ids[part, : int(chunk.lengths[part].max())], chunk.lengths[part])
        for part in parts
    ]
