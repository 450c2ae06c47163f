"""The choice of layer and strength for each pooling and post-processing of one prompt, on dev alone.

One streaming pass over the training-side text gives the moments of every view, one over dev its vectors.
`choose` never sees a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32, Float64

from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from dec2vec.vectors.affine import Affine, Provenance
from dec2vec.vectors.quantization import Ranges
from eval.config import PostName
from eval.metrics.correlation import spearman
from eval.postprocess.families import Candidate
from eval.postprocess.fitting import Fitting
from eval.postprocess.scores import dev_scores
from eval.postprocess.text_statistics import whitened_by_itself
from eval.systems.system import TRANSDUCTIVE, System, TextEncoder
from eval.tasks.sts import StsTask


@dataclass(frozen=True)
class Material:
    """What choices are made from. `fit` is training-side text; empty means that nothing is fitted."""

    dev: StsTask | None
    """None in an evaluation without similarity: nothing can be chosen for it, and `choose` is not called."""
    fit: list[str]
    fit_hash: str = ""
    posts: tuple[PostName, ...] = ("raw", "whiten")
    dimensions: tuple[int, ...] = ()
    transductive: bool = False
    batch_tokens: int = 16_384
    progress: bool = True

    @property
    def task(self) -> StsTask:
        """The dev task."""
        if self.dev is None:
            raise UserError("dev: give the similarity file on which layer and k are selected (--dev FILE)")
        return self.dev


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
    ranges: Ranges = field(repr=False, kw_only=True)
    """Of its vectors of dev, for what is left of others in one byte a dimension."""
    chosen_on: str | None
    post: Affine | None = None
    sweep: tuple[Contender, ...] = field(default=(), repr=False)

    def vectors_of(self, raw: Float32[np.ndarray, "texts dim"]) -> Float32[np.ndarray, "texts k"]:
        """The system's vectors of one task's texts, from raw ones of its view."""
        if self.system.is_transductive:
            return whitened_by_itself(raw, self.k)
        return raw if self.post is None else self.post.apply(raw)

    def cosines_on(self, task: StsTask, raw: Float32[np.ndarray, "texts dim"]) -> Float64[np.ndarray, " pairs"]:
        """Of a task's pairs, from the raw vectors of its texts."""
        return task.cosines(self.vectors_of(raw))


def choose(
    encoder: TextEncoder,
    prompt: str,
    views: Sequence[View],
    material: Material,
    *,
    run: str | None = None,
    fitting: Fitting | None = None,
) -> list[Choice]:
    """Per pooling, in the order of `material.posts`: the best (layer, strength) of each post-processing.

    One that can't be made (no text to fit on, a constant view) has no choice. UserError where no candidate k fits the
    vectors, or where `embfilter` is asked of an encoder that shows no LM head. `fitting` spares making it anew.
    """
    found = fit(encoder, prompt, views, material, run=run) if fitting is None else fitting
    dev = encoder.encode_views(
        material.task.texts,
        views,
        prompt=prompt,
        batch_tokens=material.batch_tokens,
        progress=material.progress,
    )
    race = _Candidates(encoder, material, dev, found)
    poolings = dict.fromkeys(view.pooling for view in views)
    return [choice for pooling in poolings for choice in race.winners([v for v in views if v.pooling == pooling])]


def fit(
    encoder: TextEncoder, prompt: str, views: Sequence[View], material: Material, *, run: str | None = None
) -> Fitting:
    """What the post-processings of `prompt` are made of."""
    return Fitting.of(
        encoder,
        prompt,
        views,
        run=run,
        posts=material.posts,
        dimensions=material.dimensions,
        text=material.fit,
        batch_tokens=material.batch_tokens,
        progress=material.progress,
    )


def fixed(encoder: TextEncoder, system: System, material: Material) -> Choice:
    """A raw system named beforehand, such as the tuned encoder without its adapter."""
    vectors = encoder.encode_views(
        material.task.texts,
        [system.view],
        prompt=system.prompt,
        batch_tokens=material.batch_tokens,
        progress=material.progress,
    )[system.view]
    cosines = material.task.cosines(vectors)
    score = spearman(cosines, material.task.gold)
    return Choice(system, vectors.shape[1], score, cosines, None, ranges=Ranges.of(vectors))


def best(choices: Sequence[Choice]) -> Choice:
    """The highest dev score; ties as in `Contender.rank`, then the first. Transductive rows never win."""
    honest = [choice for choice in choices if not choice.system.is_transductive]
    return max(honest, key=lambda choice: Contender(choice.system, choice.k, choice.dev_score).rank)


@dataclass(frozen=True, eq=False)
class _Candidates:
    """The candidates of one prompt, with what they have in common."""

    encoder: TextEncoder
    material: Material
    dev: Mapping[View, Float32[np.ndarray, "texts dim"]]
    fitting: Fitting

    def winners(self, views: Sequence[View]) -> list[Choice]:
        """Of one pooling's layers. A loser's kernel is never built, and its rotation not kept."""
        points: dict[PostName, list[Contender]] = {}
        leaders: dict[PostName, tuple[Contender, Candidate]] = {}
        posts = dict.fromkeys(self.material.posts)
        for view in views:
            vectors = self.dev[view]  # perhaps read from disk: one view at a time is in memory
            found = self.fitting.candidates(view, vectors.shape[1])
            scores = dev_scores(found, vectors, self.material.task)
            for candidate, score in zip(found, scores, strict=True):
                label = None if candidate.post == "raw" else candidate.label
                point = Contender(System(self.fitting.prompt, view, self.fitting.run, label), candidate.k, float(score))
                points.setdefault(candidate.post, []).append(point)
                if candidate.post not in leaders or point.rank > leaders[candidate.post][0].rank:
                    leaders[candidate.post] = point, candidate
        choices = [self._choice(*leaders[post], tuple(points[post])) for post in posts if post in leaders]
        if self.material.transductive and "whiten" in leaders:
            choices.append(self._transductive(leaders["whiten"][0]))
        return choices

    def _choice(self, point: Contender, candidate: Candidate, sweep: tuple[Contender, ...]) -> Choice:
        """Its dev score anew, from the vectors that the tests will meet as well."""
        dev, system = self.material.task, point.system
        post = None if system.post is None else candidate.affine(self._facts(system))
        raw = self.dev[system.view]
        vectors = raw if post is None else post.apply(raw)
        cosines, ranges = dev.cosines(vectors), Ranges.of(vectors)
        chosen_on = dev.name if len(sweep) > 1 else None
        return Choice(system, point.k, spearman(cosines, dev.gold), cosines, chosen_on, post, sweep, ranges=ranges)

    def _transductive(self, honest: Contender) -> Choice:
        """The chosen whitening's layer and k, fitted on the sentences of each file on its own."""
        dev, system = self.material.task, honest.system
        vectors = whitened_by_itself(self.dev[system.view], honest.k)
        cosines = dev.cosines(vectors)
        labelled = replace(system, post=f"{system.post}{TRANSDUCTIVE}")
        return Choice(labelled, honest.k, spearman(cosines, dev.gold), cosines, dev.name, ranges=Ranges.of(vectors))

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
