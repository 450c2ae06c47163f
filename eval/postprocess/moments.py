"""Moments of training-side text, by view: one pass over it, and none when they were kept from an earlier one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from safetensors.numpy import save as serialize

from dec2vec.config.model import EncodeOptions
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from dec2vec.files.atomic import atomic_write_bytes
from dec2vec.vectors.whitening import Moments
from eval.cache.vector_cache import CachedEncoder, writing
from eval.config import PostName
from eval.systems.system import System, TextEncoder

MEMORY_WARNING = 4 * 2**30
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What post-processings are made from. `text` is training-side text; without it nothing is fitted."""

    text: Sequence[str] = ()
    sha256: str = ""
    posts: tuple[PostName, ...] = ("raw", "whiten")
    dimensions: tuple[int, ...] = ()
    batch_tokens: int = 16_384
    progress: bool = True


def stream_moments(encoder: TextEncoder, prompt: str, views: Sequence[View], material: Material) -> dict[View, Moments]:
    """Float64 moments of every view. One with inf or nan (half precision overflows) is left out and named."""
    kept = _Kept(encoder, prompt, material.text) if isinstance(encoder, CachedEncoder) else None
    found = {} if kept is None else kept.read(views)
    absent = [view for view in views if view not in found]
    if absent:
        fresh = _streamed(encoder, prompt, absent, material)
        if kept is not None:
            kept.write(fresh)
        found |= fresh
    return found


def _streamed(encoder: TextEncoder, prompt: str, views: Sequence[View], material: Material) -> dict[View, Moments]:
    moments: dict[View, Moments] = {}
    broken: set[View] = set()
    options = EncodeOptions(prompt, batch_tokens=material.batch_tokens, progress=material.progress)
    for _, vectors in encoder.iter_views(material.text, views, options):
        if not moments and not broken:
            _warn_of_memory(views, {view: array.shape[1] for view, array in vectors.items()})
        for view, array in vectors.items():
            if view in broken:
                continue
            try:
                moments.setdefault(view, Moments(array.shape[1])).update(array)
            except UserError as error:
                logger.warning("no post-processing is fitted for %s: %s", System(prompt, view).name, error)
                broken.add(view)
    return {view: found for view, found in moments.items() if view not in broken}


class _Kept:
    """Moments of one text under one prompt, a file for each view."""

    def __init__(self, encoder: CachedEncoder, prompt: str, text: Sequence[str]) -> None:
        digest = hashlib.sha256("\0".join(text).encode("utf-8", "surrogatepass")).hexdigest()[:24]
        self._folder = encoder.prompt_folder(prompt) / f"moments-{digest}"

    def read(self, views: Sequence[View]) -> dict[View, Moments]:
        """Those that are there."""
        found: dict[View, Moments] = {}
        for view in views:
            if self._path(view).is_file():
                tensors = load_file(self._path(view))
                found[view] = Moments(len(tensors["mean"]))
                found[view].n, found[view].mean = int(tensors["n"][0]), tensors["mean"]
                found[view].scatter = tensors["scatter"]
        return found

    def write(self, moments: dict[View, Moments]) -> None:
        """Each in one rename."""
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for view, found in moments.items():
                tensors = {"n": np.array([found.n]), "mean": found.mean, "scatter": found.scatter}
                atomic_write_bytes(self._path(view), serialize(tensors))

    def _path(self, view: View) -> Path:
        return self._folder / f"{view}.safetensors"


def _warn_of_memory(views: Sequence[View], widths: dict[View, int]) -> None:
    """A float64 d x d matrix a view: 65 views of a 4096-wide model are 8.7 GB."""
    needed = sum(8 * widths[view] ** 2 for view in views)
    if needed > MEMORY_WARNING:
        logger.warning(
            "fitting %d views needs %.1f GB; use fewer systems.poolings or systems.layers to save memory",
            len(views),
            needed / 2**30,
        )
