"""What can be done to raw vectors by a linear map, in every strength that dev is asked about.

    raw                   as they are
    centre                minus the mean of the training-side text
    standardise           centred, each dimension over its standard deviation
    abtt-M                all-but-the-top (Mu & Viswanath 2018): centred, without the first M principal directions
    pca-K                 the first K principal directions, not scaled: no whitening, and with K = d nothing but centre
    whiten-K              those directions over their standard deviations (Su et al. 2021)
    shrunk_whiten-K       the same from a covariance with OAS shrinkage, however much text there is
    soft_whiten-K-pP-rR   variances to the power -P/2, on a ridge of R times their mean
    embfilter-K           the middle K right singular vectors of the LM head: no data (EmbFilter, arXiv 2606.07502)
    random-K              a Gaussian random projection of fixed seed: no data
    truncate-K            the first K dimensions: no data

A `Candidate` is one of them in one strength: scales of the directions of a `Basis`. Candidates of one basis share its
coordinates, and all families fitted on text share one eigendecomposition, so hundreds of them cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float64

from dec2vec.errors import UserError
from dec2vec.vectors.affine import Affine, Basis, Provenance
from dec2vec.vectors.whitening import CONSTANT_TOLERANCE, Shrinkage, Spectrum, Whitening, soft_scales, whitening_scales
from eval.config import PostName
from eval.postprocess.text_statistics import Fitted
from eval.systems.system import CORPUS, Post

FITTED: frozenset[PostName] = frozenset(
    {"centre", "standardise", "abtt", "pca", "whiten", "shrunk_whiten", "soft_whiten"}
)
"""Those that need training-side text."""
SIZED: frozenset[PostName] = frozenset(
    {"pca", "whiten", "shrunk_whiten", "soft_whiten", "embfilter", "random", "truncate"}
)
"""Those that come in several k."""
REMOVED = (1, 2, 4, 8)
"""Directions that all-but-the-top removes, besides d / 100, the rule of its paper."""
SOFTNESS = ((0.25, 0.0), (0.5, 0.0), (0.75, 0.0), (1.0, 0.01), (1.0, 0.1), (1.0, 1.0))
"""Power and ridge of the soft whitening; (0, 0) is pca and (1, 0) whiten."""
SEED = 0
"""The seed of the random projection."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A post-processing of one strength; a direction of scale 0 is dropped."""

    post: PostName
    label: str
    basis: Basis
    scales: Float64[np.ndarray, " directions"]
    facts: Provenance = field(default_factory=dict)
    fitted_on: str | None = None
    """See `Post.fitted_on`."""

    @property
    def kind(self) -> tuple[PostName, bool]:
        """What has a row of its own: a family, fitted on training-side text or on the corpus."""
        return self.post, self.fitted_on is not None

    @property
    def k(self) -> int:
        """Width of the vectors."""
        return int(np.count_nonzero(self.scales))

    @property
    def described(self) -> Post | None:
        """What a row says of it; None for raw vectors."""
        if self.post == "raw":
            return None
        label = self.label if self.fitted_on is None else f"{self.label}{CORPUS}"
        return Post(self.post, label, self.k if self.post in SIZED else None, fitted_on=self.fitted_on)

    def transform(self, provenance: Provenance | None = None) -> Affine | None:
        """The map to apply; None for raw vectors."""
        return None if self.post == "raw" else self.affine(provenance)

    def affine(self, provenance: Provenance | None = None) -> Affine:
        """The map as one kernel, to be applied and kept."""
        kind = Whitening if self.post in ("whiten", "shrunk_whiten") else Affine
        facts: Provenance = {**(provenance or {}), "post": self.label, **self.facts}
        if self.fitted_on is not None:
            facts = {**facts, "fitted_on": self.fitted_on, "fit_sha256": ""}
        return kind(self.basis.mean, self.basis.kernel(self.scales), facts)


@dataclass(frozen=True, eq=False)
class Source:
    """What the candidates of one view are made from. Without `fitted` nothing is fitted."""

    width: int
    dimensions: Sequence[int]
    """Candidate k, largest first."""
    fitted: Fitted | None = None
    unembedding: Basis | None = None
    """Right singular vectors of the LM head, see `right_singular`."""
    projection: Basis | None = None
    """Directions of the random projection, see `gaussian`."""

    @cached_property
    def axes(self) -> Basis:
        return Basis(np.zeros(self.width))

    @property
    def text(self) -> Fitted:
        """Of text in which something varies, or UserError."""
        if self.fitted is None:
            raise UserError("there is no training text for the fit")
        return self.fitted

    @cached_property
    def centred_axes(self) -> Basis:
        return Basis(self.text.mean)

    @property
    def spectrum(self) -> Spectrum:
        return self.text.spectrum

    @property
    def smaller(self) -> list[int]:
        """Candidate k that do reduce the width."""
        return [k for k in self.dimensions if k < self.width]


def candidates(post: PostName, source: Source) -> Iterator[Candidate]:
    """Every strength of one family, the milder first. UserError where the text does not allow it."""
    return _FAMILIES[post](source)


def gaussian(width: int) -> Basis:
    """Directions of a random projection: the first k of them are the one to k dimensions."""
    return Basis(np.zeros(width), np.random.default_rng(SEED).standard_normal((width, width)))


def right_singular(matrix: Float[np.ndarray, "vocabulary dim"]) -> Basis:
    """Right singular vectors of an LM head (or of input embeddings tied to it) by descending singular value.

    From the d x d Gram matrix, a block of rows at a time: the vocabulary may be a hundred times d.
    """
    width = matrix.shape[1]
    gram = np.zeros((width, width))
    for start in range(0, len(matrix), 16_384):
        rows = matrix[start : start + 16_384].astype(np.float64)
        gram += rows.T @ rows
    return Basis(np.zeros(width), np.linalg.eigh(gram)[1][:, ::-1])


def _whole(post: PostName, basis: Basis) -> Candidate:
    return Candidate(post, post, basis, np.ones(basis.size))


def _prefixes(post: PostName, basis: Basis, dimensions: Sequence[int], facts: Provenance) -> Iterator[Candidate]:
    for k in dimensions:
        yield Candidate(post, f"{post}-{k}", basis, _span(basis.size, 0, k), {**facts, "k": k})


def _span(size: int, start: int, stop: int) -> Float64[np.ndarray, " size"]:
    """1 from start to stop, 0 elsewhere."""
    indices = np.arange(size)
    return ((indices >= start) & (indices < stop)).astype(np.float64)


def _raw(source: Source) -> Iterator[Candidate]:
    yield _whole("raw", source.axes)


def _centre(source: Source) -> Iterator[Candidate]:
    basis = source.centred_axes
    yield Candidate("centre", "centre", basis, np.ones(basis.size), {"n": source.text.n})


def _standardise(source: Source) -> Iterator[Candidate]:
    """A dimension that does not vary says nothing and is dropped."""
    basis = source.centred_axes
    deviations = source.text.deviations
    varies = deviations > CONSTANT_TOLERANCE * np.abs(basis.mean)
    scales = np.divide(1.0, deviations, out=np.zeros_like(deviations), where=varies)
    yield Candidate("standardise", "standardise", basis, scales, {"n": source.text.n})


def _abtt(source: Source) -> Iterator[Candidate]:
    basis, facts = source.spectrum.basis, {"n": source.spectrum.n}
    for removed in sorted({*REMOVED, round(source.width / 100)} - {0}):
        if removed < min(source.spectrum.rank, source.width - 1):
            scales = _span(source.width, removed, source.width)
            yield Candidate("abtt", f"abtt-{removed}", basis, scales, {**facts, "removed": removed})


def _pca(source: Source) -> Iterator[Candidate]:
    """Beyond the rank the directions are arbitrary, until all of them together are the centred space again."""
    spectrum = source.spectrum
    usable = [k for k in source.dimensions if k <= spectrum.rank or k == source.width]
    return _prefixes("pca", spectrum.basis, usable, {"n": spectrum.n, "rank": spectrum.rank})


def _whiten(source: Source, post: PostName = "whiten", shrinkage: Shrinkage = "auto") -> Iterator[Candidate]:
    for k in source.dimensions:
        scales, facts = whitening_scales(source.spectrum, k, shrinkage)
        if facts["k"] == k:  # not cut to the rank
            yield Candidate(post, f"{post}-{k}", source.spectrum.basis, scales, facts)


def _shrunk_whiten(source: Source) -> Iterator[Candidate]:
    return _whiten(source, "shrunk_whiten", "oas")


def _soft_whiten(source: Source) -> Iterator[Candidate]:
    """Without a ridge a k too large for the text is passed over, as long as others are left."""
    spectrum = source.spectrum
    for power, ridge in SOFTNESS:
        for k in source.dimensions:
            if ridge == 0.0 and (k > spectrum.rank or spectrum.n <= k + 1):
                continue
            scales, facts = soft_scales(spectrum, k, power=power, ridge=ridge)
            label = f"soft_whiten-{k}-p{power:g}-r{ridge:g}"
            yield Candidate("soft_whiten", label, spectrum.basis, scales, facts)


def _embfilter(source: Source) -> Iterator[Candidate]:
    """The published filter cuts both edges: the strongest directions of the vocabulary and the faintest."""
    basis = source.unembedding
    if basis is None or basis.size != source.width:
        raise UserError("the LM head and these vectors have different widths")
    for k in source.smaller:
        start = (source.width - k) // 2
        yield Candidate("embfilter", f"embfilter-{k}", basis, _span(source.width, start, start + k), {"k": k})


def _random(source: Source) -> Iterator[Candidate]:
    basis = source.projection or gaussian(source.width)
    return _prefixes("random", basis, source.smaller, {"seed": SEED})


def _truncate(source: Source) -> Iterator[Candidate]:
    return _prefixes("truncate", source.axes, source.smaller, {})


_FAMILIES: dict[PostName, Callable[[Source], Iterator[Candidate]]] = {
    "raw": _raw,
    "centre": _centre,
    "standardise": _standardise,
    "abtt": _abtt,
    "pca": _pca,
    "whiten": _whiten,
    "shrunk_whiten": _shrunk_whiten,
    "soft_whiten": _soft_whiten,
    "embfilter": _embfilter,
    "random": _random,
    "truncate": _truncate,
}
