"""The post-processings of one prompt: from moments of training-side text by view, and from fixed directions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dec2vec.config.model import LOGIT_POOLINGS
from dec2vec.decoder.pooling import View
from dec2vec.errors import UserError
from dec2vec.vectors.affine import Basis, Provenance
from eval.config import PostName
from eval.postprocess.families import FITTED, SIZED, Candidate, Source, candidates, gaussian, right_singular
from eval.postprocess.moments import Material, stream_moments
from eval.postprocess.text_statistics import Fitted
from eval.systems.system import UNTUNED, Post, System, TextEncoder, candidate_dimensions, start_of

NARROW: tuple[PostName, ...] = ("raw",)
"""Post-processings of logits."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fitting:
    """The post-processings of one encoder and prompt; shared by all tasks."""

    prompt: str
    run: str | None
    posts: tuple[PostName, ...]
    dimensions: tuple[int, ...]
    fitted: Mapping[View, Fitted]
    unembedding: Basis | None
    facts: Provenance = field(default_factory=dict)
    """The model and the text, for the provenance of what is fitted."""
    projections: dict[int, Basis] = field(default_factory=dict)
    """Random ones by width: the same in every view."""
    corpus_posts: tuple[PostName, ...] = ()
    """Those that may also be fitted on a corpus: those of a run that is whitened by its own whitening too."""
    sources: dict[View, Source] = field(default_factory=dict)
    """By view: what one task's choice has computed serves all others."""
    start: str = UNTUNED
    """Of the systems that are not of a run."""

    def system(self, view: View, post: Post | None) -> System:
        """One of its systems."""
        return System(self.prompt, view, self.run, post, UNTUNED if self.run is not None else self.start)

    @classmethod
    def from_encoder(
        cls, encoder: TextEncoder, prompt: str, views: Sequence[View], material: Material, *, run: str | None = None
    ) -> Fitting:
        """One pass over the text, if something is to be fitted on it.

        Raises UserError where `embfilter` is wanted of an encoder without an LM head.
        """
        posts, model = material.posts, encoder.config
        unembedding = right_singular(encoder.output_embeddings()) if "embfilter" in posts else None
        is_fitted = bool(material.text) and bool(FITTED & {*posts})
        wanted = [view for view in views if view.pooling not in LOGIT_POOLINGS] if is_fitted else []
        moments = stream_moments(encoder, prompt, wanted, material) if wanted else {}
        fitted = {view: Fitted(moments.pop(view)) for view in list(moments)}
        facts: Provenance = {
            "model": model.name_or_path,
            "revision": model.revision or "",
            "fit_sha256": material.sha256,
        }
        return cls(prompt, run, posts, material.dimensions, fitted, unembedding, facts, start=start_of(model))

    def provenance(self, view: View) -> Provenance:
        """Where the maps of one view come from."""
        return {"prompt": self.prompt, "pooling": str(view.pooling), "layer": view.layer, **self.facts}

    def candidates(self, view: View, width: int) -> list[Candidate]:
        """Every post-processing in every strength; one that can't be made of this view is left out.

        Logits are as wide as the vocabulary: nothing with a matrix of width x width is made of them.
        """
        if view.pooling in LOGIT_POOLINGS:
            return [found for post in NARROW if post in self.posts for found in candidates(post, Source(width, ()))]
        source = self._source(view, width)
        return [candidate for post in dict.fromkeys(self.posts) for candidate in self._of(view, source, post)]

    def _of(self, view: View, source: Source, post: PostName) -> list[Candidate]:
        try:
            return list(candidates(post, source))
        except UserError as error:
            logger.info("%s has no %s: %s", System(self.prompt, view, self.run).name, post, error)
            return []

    def _source(self, view: View, width: int) -> Source:
        if view not in self.sources:
            self.sources[view] = self._new_source(view, width)
        return self.sources[view]

    def _new_source(self, view: View, width: int) -> Source:
        if "random" in self.posts and width not in self.projections:
            self.projections[width] = gaussian(width)
        dimensions = candidate_dimensions(self.dimensions, width) if SIZED & {*self.posts} else []
        return Source(width, dimensions, self.fitted.get(view), self.unembedding, self.projections.get(width))
