"""Vectors kept on disk by content, so that what was read once is not embedded again.

A second evaluation, one more task, or an evaluation that was interrupted computes only what is missing.

The key is what a vector depends on: weights, tokenizer and options (one folder), prompt and side (one folder in it),
layer and pooling (one file), and the text. Of training-side text the moments are kept there too, not its vectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import BaseFileLock
from numpy.typing import NDArray

from dec2vec.config.model import AS_CONFIGURED, LOGIT_POOLINGS, EncodeOptions, ModelConfig
from dec2vec.decoder.pooling import View
from dec2vec.decoder.published import Published
from dec2vec.errors import UserError
from dec2vec.files.atomic import why_not_written
from dec2vec.files.lock import lock_folder
from dec2vec.inference import TokenCounts
from dec2vec.prompts.ensembles import Ensemble
from dec2vec.prompts.prompt import Side
from dec2vec.vectors.whitening import Whitening
from eval.cache.cost import Cost
from eval.cache.rows import SAMPLE
from eval.cache.vector_file import KEY_BYTES, VectorFile
from eval.systems.system import TextEncoder

Vectors = NDArray[np.float32]
Stream = Iterator[tuple[NDArray[np.int64], dict[View, Vectors]]]
COMMIT_SECONDS = 20.0
"""A killed evaluation loses no more work than that."""
logger = logging.getLogger(__name__)


class StoredViews(Mapping[View, Vectors]):
    """Vectors that are read from disk on access and not held: all views of a split may not fit in memory.

    `others` are mappings of further views, such as logits, which are never stored.
    """

    def __init__(
        self, files: Mapping[View, VectorFile], keys: Sequence[bytes], *others: Mapping[View, Vectors]
    ) -> None:
        self._files, self._keys, self._others = files, keys, others

    def __getitem__(self, view: View) -> Vectors:
        if view in self._files:
            return self._files[view].read(self._keys)
        return next(other for other in self._others if view in other)[view]

    def __iter__(self) -> Iterator[View]:
        yield from self._files
        for other in self._others:
            yield from other

    def __len__(self) -> int:
        return len(self._files) + sum(map(len, self._others))


class CachedEncoder:
    """A TextEncoder in front of another one. `passes` counts texts that went through the decoder, by prompt."""

    def __init__(self, encoder: TextEncoder, folder: Path) -> None:
        self.config: ModelConfig = encoder.config
        self.behind = encoder
        self._folder = folder
        self._files: dict[tuple[Path, View], VectorFile] = {}
        self.passes: Counter[str] = Counter()
        self.costs: dict[str, Cost] = {}
        """What that took, by prompt."""

    @property
    def folder(self) -> Path:
        """Where its vectors are."""
        return self._folder

    @property
    def whitening(self) -> Whitening | None:
        """What the encoder behind exports."""
        return self.behind.whitening

    @property
    def published(self) -> Published | None:
        """That of the encoder behind."""
        return self.behind.published

    @property
    def view(self) -> View:
        """That of the encoder behind."""
        return self.behind.view

    @property
    def layer_count(self) -> int:
        """The number of layers of the encoder behind."""
        return self.behind.layer_count

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        side: Side = "text",
        batch_tokens: int = 16_384,
        normalize: bool = True,
        progress: bool = True,
    ) -> Vectors:
        """Not kept: used for a text or two."""
        return self.behind.encode(
            texts, prompt=prompt, side=side, batch_tokens=batch_tokens, normalize=normalize, progress=progress
        )

    def encode_views(
        self, texts: Sequence[str], views: Sequence[View], options: EncodeOptions = AS_CONFIGURED
    ) -> Mapping[View, Vectors]:
        """From disk; texts of which a view is missing go through the decoder once, for all views.

        Logits are as wide as the vocabulary: they are not kept.
        """
        if any(view.pooling in LOGIT_POOLINGS for view in views):
            return self._uncached(texts, views, options)
        keys = [_digest(text) for text in texts]
        files = {view: self._file(options, view) for view in views}
        missing = {
            key: text for key, text in zip(keys, texts, strict=True) if any(key not in file for file in files.values())
        }
        stream = joined_start(self._through_decoder(list(missing.values()), views, options), SAMPLE)
        self._keep(stream, list(missing), files)
        return StoredViews(files, keys)

    def _keep(self, stream: Stream, keys: Sequence[bytes], files: Mapping[View, VectorFile]) -> None:
        """Committed every few seconds and at the end, errors included: an interrupted evaluation resumes from there."""
        committed = time.monotonic()
        try:
            for rows, found in stream:
                with writing(self._folder):
                    for view, vectors in found.items():
                        files[view].append([keys[row] for row in rows], vectors)
                    if time.monotonic() - committed > COMMIT_SECONDS:
                        _commit(files)
                        committed = time.monotonic()
        finally:
            with writing(self._folder):
                _commit(files)

    def _uncached(self, texts: Sequence[str], views: Sequence[View], options: EncodeOptions) -> Mapping[View, Vectors]:
        """Logits from the encoder itself, which guards the memory; the other views as ever."""
        wide = [view for view in views if view.pooling in LOGIT_POOLINGS]
        kept = [view for view in views if view.pooling not in LOGIT_POOLINGS]
        found = self.behind.encode_views(texts, wide, options)
        stored = self.encode_views(texts, kept, options) if kept else {}
        return StoredViews({}, [], found, stored)

    def iter_views(
        self, texts: Sequence[str], views: Sequence[View], options: EncodeOptions = AS_CONFIGURED
    ) -> Iterator[tuple[NDArray[np.int64], dict[View, Vectors]]]:
        """A stream is too much to keep: it serves moments, which are (see `eval.postprocess.moments`)."""
        yield from self._through_decoder(texts, views, options)

    def is_cut(self, texts: Sequence[str], *, prompt: str | None = None, side: Side = "text") -> list[bool]:
        """By the tokens of the encoder behind: whether a vector is kept says nothing of it."""
        return self.behind.is_cut(texts, prompt=prompt, side=side)

    def output_embeddings(self) -> Vectors:
        """The LM head of the encoder behind."""
        return self.behind.output_embeddings()

    def ensemble(self, prompt: str | None = None, side: Side = "text") -> Ensemble:
        """The prompts behind `prompt`."""
        return self.behind.ensemble(prompt, side)

    @property
    def tally(self) -> TokenCounts:
        """What the decoder behind has read so far."""
        return self.behind.tally

    def prompt_folder(self, prompt: str | None, side: Side = "text") -> Path:
        """Where everything about one prompt is kept: by what it writes, so that sides that read alike share it."""
        spec = self.config.prompt_name if prompt is None else prompt
        written = repr(self.behind.ensemble(spec, side))
        folder = self._folder / hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _through_decoder(
        self, texts: Sequence[str], views: Sequence[View], options: EncodeOptions
    ) -> Iterator[tuple[NDArray[np.int64], dict[View, Vectors]]]:
        if not texts:
            return
        members = len(self.behind.ensemble(options.prompt, options.side).members)
        name = self.config.prompt_name if options.prompt is None else options.prompt
        cost = self.costs.setdefault(name, Cost())
        for rows, found in cost.watch(self.behind, self.behind.iter_views(texts, views, options)):
            self.passes[name] += len(rows) * members
            cost.texts += len(rows) * members
            yield rows, found

    def _file(self, options: EncodeOptions, view: View) -> VectorFile:
        key = (self.prompt_folder(options.prompt, options.side), view)
        if key not in self._files:
            self._files[key] = VectorFile(key[0], str(view))
        return self._files[key]


def joined_start(stream: Stream, texts: int) -> Stream:
    """The same stream, its first part of at least so many texts: from it a new file's precision is chosen."""
    rows: list[NDArray[np.int64]] = []
    parts: list[dict[View, Vectors]] = []
    for some, found in stream:
        rows.append(some)
        parts.append(found)
        if sum(map(len, rows)) >= texts:
            break
    if rows:
        yield np.concatenate(rows), {view: np.concatenate([part[view] for part in parts]) for view in parts[0]}
    yield from stream


def _commit(files: Mapping[View, VectorFile]) -> None:
    for file in files.values():
        file.commit()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A full disk or a folder of someone else's in one line."""
    try:
        yield
    except OSError as error:
        why = f"{why_not_written(error, '--cache')} (--cache '' disables it)"
        raise UserError(f"cannot cache vectors in {folder}: {why}") from error


class VectorCache:
    """The cache folder, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: BaseFileLock | None = None

    def __enter__(self) -> VectorCache:
        try:
            self._lock = lock_folder(self._path, "cache", "evaluation")
        except OSError as error:
            raise UserError(f"cannot use cache {self._path}: {why_not_written(error, '--cache')}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def of(self, encoder: TextEncoder, fingerprint: str) -> CachedEncoder:
        """`encoder` with the vectors that were kept under its fingerprint."""
        return CachedEncoder(encoder, self._path / fingerprint[:32])


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
