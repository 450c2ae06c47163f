"""The choice of layer and strength for each pooling and post-processing of one prompt, on dev alone.

One streaming pass over the training-side text gives the moments of every view, one over dev its vectors.
`choose` never sees a test.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32, Float64

from dec2vec.affine import Affine, Basis, Provenance
from dec2vec.errors import UserError
from dec2vec.pooling import View
from dec2vec.whitening import Moments
from eval.config import PostName
from eval.metrics import spearman
from eval.postprocess import FITTED, SIZED, Candidate, Source, candidates, gaussian, right_singular
from eval.postprocess_scores import dev_scores
from eval.systems import TRANSDUCTIVE, HasOutputEmbeddings, System, TextEncoder, candidate_dimensions
from eval.tasks.sts import StsTask
from eval.transductive import whitened_by_itself

MEMORY_WARNING = 4 * 2**30
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What choices are made from. `fit` is training-side text; empty means that nothing is fitted."""

    dev: StsTask
    fit: list[str]
    fit_hash: str = ""
    posts: tuple[PostName, ...] = ("raw", "whiten")
    dimensions: tuple[int, ...] = ()
    transductive: bool = False
    batch_tokens: int = 16_384
    progress: bool = True


@dataclass(frozen=True)
class Contender:
    """One candidate of a choice. `k` is the width of its vectors, `dev_score` a Spearman correlation."""

    system: System
    k: int
    dev_score: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """By dev score. Of equals the deeper layer, then the larger k: a rule, so that reruns agree."""
        score = self.dev_score if np.isfinite(self.dev_score) else -np.inf
        return score, float(self.system.view.layer), self.k


@dataclass(frozen=True, eq=False)
class Choice:
    """A system that stands for its prompt, pooling and post-processing.

    `chosen_on` is None where nothing was to choose; `sweep` has every candidate it was chosen from.
    """

    system: System
    k: int
    dev_score: float
    cosines: Float64[np.ndarray, " pairs"] = field(repr=False)
    chosen_on: str | None
    post: Affine | None = None
    sweep: tuple[Contender, ...] = field(default=(), repr=False)

    def cosines_on(self, task: StsTask, raw: Float32[np.ndarray, "texts dim"]) -> Float64[np.ndarray, " pairs"]:
        """Of a task's pairs, from the raw vectors of its texts."""
        if self.system.is_transductive:
            return task.cosines(whitened_by_itself(raw, self.k))
        return task.cosines(raw if self.post is None else self.post.apply(raw))


def choose(
    encoder: TextEncoder, prompt: str, views: Sequence[View], material: Material, *, run: str | None = None
) -> list[Choice]:
    """Per pooling, in the order of `material.posts`: the best (layer, strength) of each post-processing.

    One that can't be made (no text to fit on, a constant view) has no choice. UserError where no candidate k fits the
    vectors, or where `embfilter` is asked of an encoder that shows no LM head.
    """
    unembedding = _unembedding(encoder) if "embfilter" in material.posts else None
    moments = _stream_moments(encoder, prompt, views, material) if material.fit and FITTED & {*material.posts} else {}
    dev = encoder.encode_views(
        material.dev.texts,
        views,
        prompt=prompt,
        batch_tokens=material.batch_tokens,
        progress=material.progress,
    )
    race = _Race(encoder, prompt, run, material, dev, moments, unembedding)
    poolings = dict.fromkeys(view.pooling for view in views)
    return [choice for pooling in poolings for choice in race.winners([v for v in views if v.pooling == pooling])]


def fixed(encoder: TextEncoder, system: System, material: Material) -> Choice:
    """A raw system named beforehand, such as the tuned encoder without its adapter."""
    vectors = encoder.encode_views(
        material.dev.texts,
        [system.view],
        prompt=system.prompt,
        batch_tokens=material.batch_tokens,
        progress=material.progress,
    )[system.view]
    cosines = material.dev.cosines(vectors)
    return Choice(system, vectors.shape[1], spearman(cosines, material.dev.gold), cosines, None)


def best(choices: Sequence[Choice]) -> Choice:
    """The highest dev score; ties as in `Contender.rank`, then the first. Transductive rows never win."""
    honest = [choice for choice in choices if not choice.system.is_transductive]
    return max(honest, key=lambda choice: Contender(choice.system, choice.k, choice.dev_score).rank)


@dataclass(frozen=True, eq=False)
class _Race:
    """The candidates of one prompt, with what they have in common."""

    encoder: TextEncoder
    prompt: str
    run: str | None
    material: Material
    dev: dict[View, Float32[np.ndarray, "texts dim"]]
    moments: dict[View, Moments]
    unembedding: Basis | None
    projections: dict[int, Basis] = field(default_factory=dict)
    """Random ones by width: the same in every view."""

    def winners(self, views: Sequence[View]) -> list[Choice]:
        """Of one pooling's layers. A loser's kernel is never built, and its rotation not kept."""
        points: dict[PostName, list[Contender]] = {}
        leaders: dict[PostName, tuple[Contender, Candidate]] = {}
        posts = dict.fromkeys(self.material.posts)
        for view in views:
            source = self._source(view)
            found = [candidate for post in posts for candidate in self._of(view, source, post)]
            scores = dev_scores(found, self.dev[view], self.material.dev)
            for candidate, score in zip(found, scores, strict=True):
                label = None if candidate.post == "raw" else candidate.label
                point = Contender(System(self.prompt, view, self.run, label), candidate.k, float(score))
                points.setdefault(candidate.post, []).append(point)
                if candidate.post not in leaders or point.rank > leaders[candidate.post][0].rank:
                    leaders[candidate.post] = point, candidate
        choices = [self._choice(*leaders[post], tuple(points[post])) for post in posts if post in leaders]
        if self.material.transductive and "whiten" in leaders:
            choices.append(self._transductive(leaders["whiten"][0]))
        return choices

    def _of(self, view: View, source: Source, post: PostName) -> list[Candidate]:
        try:
            return list(candidates(post, source))
        except UserError as error:
            logger.info("%s has no %s: %s", System(self.prompt, view, self.run).name, post, error)
            return []

    def _source(self, view: View) -> Source:
        posts, width = self.material.posts, self.dev[view].shape[1]
        if "random" in posts and width not in self.projections:
            self.projections[width] = gaussian(width)
        dimensions = candidate_dimensions(self.material.dimensions, width) if SIZED & {*posts} else []
        return Source(width, dimensions, self.moments.get(view), self.unembedding, self.projections.get(width))

    def _choice(self, point: Contender, candidate: Candidate, sweep: tuple[Contender, ...]) -> Choice:
        """Its dev score anew, from the vectors that the tests will meet as well."""
        dev, system = self.material.dev, point.system
        post = None if system.post is None else candidate.affine(self._facts(system))
        raw = self.dev[system.view]
        cosines = dev.cosines(raw if post is None else post.apply(raw))
        chosen_on = dev.name if len(sweep) > 1 else None
        return Choice(system, point.k, spearman(cosines, dev.gold), cosines, chosen_on, post, sweep)

    def _transductive(self, honest: Contender) -> Choice:
        """The chosen whitening's layer and k, fitted on the sentences of each file on its own."""
        dev, system = self.material.dev, honest.system
        cosines = dev.cosines(whitened_by_itself(self.dev[system.view], honest.k))
        labelled = replace(system, post=f"{system.post}{TRANSDUCTIVE}")
        return Choice(labelled, honest.k, spearman(cosines, dev.gold), cosines, dev.name)

    def _facts(self, system: System) -> Provenance:
        model = self.encoder.config
        return {
            "prompt": system.prompt,
            "pooling": str(system.view.pooling),
            "layer": system.view.layer,
            "model": model.name_or_path,
            "revision": model.revision or "",
            "fit_sha256": self.material.fit_hash,
        }


def _unembedding(encoder: TextEncoder) -> Basis:
    if not isinstance(encoder, HasOutputEmbeddings):
        raise UserError("systems.post embfilter: this encoder shows no LM head; leave embfilter out")
    return right_singular(encoder.output_embeddings())


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
                logger.warning("nothing is fitted to %s: %s", System(prompt, view).name, error)
                broken.add(view)
    return {view: found for view, found in moments.items() if view not in broken}


def _warn_of_memory(views: Sequence[View], widths: dict[View, int]) -> None:
    """A float64 d x d matrix a view: 65 views of a 4096-wide model are 8.7 GB."""
    needed = sum(8 * widths[view] ** 2 for view in views)
    if needed > MEMORY_WARNING:
        logger.warning(
            "fitting %d views takes %.1f GB: name fewer systems.poolings or systems.layers to save memory",
            len(views),
            needed / 2**30,
        )
