"""What post-processings learn from training-side text, of one view."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64

from dec2vec.errors import UserError
from dec2vec.vectors.whitening import Moments, Spectrum, fit_whitening, refuse_constant


class Fitted:
    """Mean, deviations and principal directions. Raises UserError where nothing varies, when first asked.

    The directions are computed once, for all tasks and post-processings; from then on they take the place of the
    scatter matrix, which is as large.
    """

    def __init__(self, moments: Moments) -> None:
        self.n = moments.n
        self._moments: Moments | None = moments

    @cached_property
    def mean(self) -> Float64[np.ndarray, " dim"]:
        """The mean of the text's vectors."""
        moments = self._scatter()
        refuse_constant(moments)
        return moments.mean.copy()

    @cached_property
    def deviations(self) -> Float64[np.ndarray, " dim"]:
        """Standard deviation of each dimension."""
        moments = self._scatter()
        refuse_constant(moments)
        return np.asarray(np.sqrt(np.diag(moments.scatter) / (moments.n - 1)))

    @cached_property
    def spectrum(self) -> Spectrum:
        """Directions by descending variance."""
        _ = self.mean, self.deviations  # the scatter matrix goes after this
        found = Spectrum.from_moments(self._scatter())
        self._moments = None
        return found

    def _scatter(self) -> Moments:
        assert self._moments is not None
        return self._moments


def whitened_by_itself(vectors: Float32[np.ndarray, "texts dim"], k: int) -> Float32[np.ndarray, "texts directions"]:
    """At most k directions, shrunk where the texts are few; nan where nothing can be fitted."""
    moments = Moments(vectors.shape[1])
    try:
        moments.update(vectors)
        return fit_whitening(moments, k).apply(vectors)
    except UserError:
        return np.full((len(vectors), k), np.nan, dtype=np.float32)
