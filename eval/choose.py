"""The choice of layer (raw) and of layer and k (whitened) for each pooling of one prompt, on dev alone.

One streaming pass over the training-side text gives the moments of every view, one over dev its vectors.
`choose` never sees a test.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Float64

from dec2vec.errors import UserError
from dec2vec.pooling import View
from dec2vec.whitening import Moments, Whitening, fit_whitening
from eval.metrics import spearman
from eval.systems import System, TextEncoder, candidate_dimensions
from eval.tasks.sts import StsTask

MEMORY_WARNING = 4 * 2**30
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What choices are made from. `fit` is training-side text; empty means that nothing is whitened."""

    dev: StsTask
    fit: list[str]
    fit_hash: str = ""
    dimensions: tuple[int, ...] = ()
    batch_tokens: int = 16_384
    progress: bool = True


@dataclass(frozen=True, eq=False)
class Choice:
    """A system that stands for its prompt and pooling. `chosen_on` is None where nothing was to choose."""

    system: System
    dev_score: float
    cosines: Float64[np.ndarray, " pairs"] = field(repr=False)
    chosen_on: str | None
    whitening: Whitening | None = None

    def vectors(self, raw: Float32[np.ndarray, "texts dim"]) -> Float32[np.ndarray, "texts k"]:
        """The system's vectors from raw ones of its view."""
        return raw if self.whitening is None else self.whitening.apply(raw)


def choose(
    encoder: TextEncoder, prompt: str, views: Sequence[View], material: Material, *, run: str | None = None
) -> list[Choice]:
    """Per pooling the best raw layer and, given text to fit on, the best whitened (layer, k)."""
    moments = _stream_moments(encoder, prompt, views, material) if material.fit else {}
    dev = encoder.encode_views(
        material.dev.texts,
        views,
        prompt=prompt,
        batch_tokens=material.batch_tokens,
        progress=material.progress,
    )
    found: list[Choice] = []
    for pooling in dict.fromkeys(view.pooling for view in views):
        group = [view for view in views if view.pooling == pooling]
        several = material.dev.name if len(group) > 1 else None
        found.append(best([_judge(System(prompt, view, run), dev[view], material, several) for view in group]))
        whitened = [
            choice
            for view in group
            if view in moments
            for choice in _whitened(encoder, System(prompt, view, run), dev[view], moments[view], material)
        ]
        if whitened:
            found.append(best(whitened))
    return found


def fixed(encoder: TextEncoder, system: System, material: Material) -> Choice:
    """A raw system named beforehand, such as the tuned encoder without its adapter."""
    dev = encoder.encode_views(
        material.dev.texts,
        [system.view],
        prompt=system.prompt,
        batch_tokens=material.batch_tokens,
        progress=material.progress,
    )
    return _judge(system, dev[system.view], material, None)


def best(choices: Sequence[Choice]) -> Choice:
    """The highest dev score. Of equals the deeper layer, then the larger k: a rule, so that reruns agree."""
    return max(choices, key=_rank)


def _rank(choice: Choice) -> tuple[float, float, int]:
    score = choice.dev_score if np.isfinite(choice.dev_score) else -np.inf
    return score, float(choice.system.view.layer), choice.system.k or 0


def _judge(
    system: System,
    vectors: Float32[np.ndarray, "texts dim"],
    material: Material,
    chosen_on: str | None,
    whitening: Whitening | None = None,
) -> Choice:
    cosines = material.dev.cosines(vectors)
    return Choice(system, spearman(cosines, material.dev.gold), cosines, chosen_on, whitening)


def _whitened(
    encoder: TextEncoder,
    system: System,
    vectors: Float32[np.ndarray, "texts dim"],
    moments: Moments,
    material: Material,
) -> list[Choice]:
    """One choice for each k, from one fit: truncating the kernel is fitting with that k."""
    model = encoder.config
    facts = {
        "prompt": system.prompt,
        "pooling": str(system.view.pooling),
        "layer": system.view.layer,
        "model": model.name_or_path,
        "revision": model.revision or "",
        "fit_sha256": material.fit_hash,
    }
    try:
        whole = fit_whitening(moments, provenance=facts)
    except UserError as error:
        logger.info("%s is not whitened: %s", system.name, error)
        return []
    projected = whole.apply(vectors)
    found = []
    for k in candidate_dimensions(material.dimensions, moments.dimension):
        if k <= whole.dimension:
            cut = System(system.prompt, system.view, system.run, k)
            found.append(_judge(cut, projected[:, :k], material, material.dev.name, whole.truncated(k)))
    return found


def _stream_moments(
    encoder: TextEncoder, prompt: str, views: Sequence[View], material: Material
) -> dict[View, Moments]:
    """Float64 moments of every view. One with inf or nan (half precision overflows) is left out and named."""
    moments: dict[View, Moments] = {}
    broken: set[View] = set()
    for _, vectors in encoder.iter_views(
        material.fit, views, prompt=prompt, batch_tokens=material.batch_tokens, progress=material.progress
    ):
        if not moments and not broken:
            _warn_of_memory(views, {view: array.shape[1] for view, array in vectors.items()})
        for view, array in vectors.items():
            if view in broken:
                continue
            try:
                moments.setdefault(view, Moments(array.shape[1])).update(array)
            except UserError as error:
                logger.warning("%s is not whitened: %s", System(prompt, view).name, error)
                broken.add(view)
    return {view: found for view, found in moments.items() if view not in broken}


def _warn_of_memory(views: Sequence[View], widths: dict[View, int]) -> None:
    """A float64 d x d matrix a view: 65 views of a 4096-wide model are 8.7 GB."""
    needed = sum(8 * widths[view] ** 2 for view in views)
    if needed > MEMORY_WARNING:
        logger.warning(
            "whitening %d views takes %.1f GB: name fewer systems.poolings or systems.layers to save memory",
            len(views),
            needed / 2**30,
        )
